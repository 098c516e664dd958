"""Word rules that are learned from the words of a tagging task."""

from __future__ import annotations

import pytest

from polytask.model.encoding import Input
from polytask.model.words import WordRule, WordSplit
from polytask.training.data.running_text import running_text
from polytask.training.data.word_rules import agreement, choose_word_rule, describe

NAMES = ("Keller", "Maria", "Jon", "Berlin", "Curie", "Paris")


def _texts(*patterns: str) -> list[Input]:
    """Sentences for each name; in a pattern blanks separate words and X is the name."""
    return [running_text(pattern.replace("X", name).split()) for pattern in patterns for name in NAMES]


def _words(rule: WordRule, text: str) -> list[str]:
    return [text[start:end] for start, end in rule.words(text)]


def test_possessives_are_cut_off_where_the_data_do_so() -> None:
    """Where `'s` is a word of the data it becomes one of raw text, with either apostrophe; else it stays in its word."""
    apart, inside = choose_word_rule(_texts("X 's dog .")), choose_word_rule(_texts("X's dog ."))
    for sign in "'\u2019":
        assert _words(apart, f"Anna{sign}s cat.") == ["Anna", f"{sign}s", "cat", "."]
        assert _words(inside, f"Anna{sign}s cat.") == [f"Anna{sign}s", "cat", "."]


def test_the_majority_of_the_data_decides() -> None:
    """A contraction that the data mostly keep whole is not cut."""
    rule = choose_word_rule(_texts("I don't know X .", "I can't see X .", "Did n't X go ?"))
    assert _words(rule, "I won't") == ["I", "won't"]


def test_words_that_a_rule_would_cut_stay_whole() -> None:
    """Abbreviations, signs and numbers of the data's shapes are words, but a full stop at the end is one of its own."""
    rule = choose_word_rule(_texts("Mr. X paid 1/2 of 25,000 in the U.S. ... :-)", "X said no ."))
    assert _words(rule, "MR. Smith paid 3/4 of 13,579 in the U.S. no.") == [
        *("MR.", "Smith", "paid", "3/4", "of", "13,579", "in", "the", "U.S.", "no", ".")
    ]


def test_rare_words_are_no_exceptions() -> None:
    """What occurs twice is not learned."""
    assert choose_word_rule(_texts("X .")[:2] + [running_text(["a/b"])] * 2).whole == ()


@pytest.mark.parametrize(
    ("split", "patterns"),
    [
        (WordSplit.UNICODE, ["X met X ."]),
        (WordSplit.WEB, ["see http://X.org/a-X and @X-X of #X"]),
        (WordSplit.SPACES, ["X, and (X) or/and X; then..", "and so-X, he--X!"]),
    ],
)
def test_the_rule_that_agrees_best_is_chosen(split: WordSplit, patterns: list[str]) -> None:
    """Links, hyphens and punctuation decide between the rules; of equally good ones it is Unicode's."""
    texts = _texts(*patterns)
    rule = choose_word_rule(texts)
    assert rule.split is split
    assert agreement(rule, texts) == 1


def test_characters_are_recognised() -> None:
    """Data whose words are characters, Latin letters too, are split by character; the recipe's rule comes first."""
    texts = [
        running_text(list(sentence)) for sentence in ("昨天王小明去了北京。", "他在IBM工作3年", "北京很大,AI很好") * 9
    ]
    rule = choose_word_rule(texts)
    assert agreement(rule, texts) > 0.95
    assert _words(rule, "王大明去了上海。") == list("王大明去了上海。")
    assert choose_word_rule(texts, [WordSplit.SPACES]).split is WordSplit.SPACES


def test_frequent_words_of_scripts_without_blanks_are_learned() -> None:
    """Chinese data in words give longest matches of frequent words."""
    texts = [running_text(words) for words in (["我们", "在", "北京"], ["他们", "去", "北京", "大学"]) * 5]
    assert _words(choose_word_rule(texts), "他们在北京大学") == ["他们", "在", "北京", "大学"]


def test_agreement_is_the_share_of_words_found() -> None:
    """Of four words two are found."""
    text = Input("a b-c d", words=((0, 1), (2, 3), (4, 5), (6, 7)))
    assert agreement(WordRule(WordSplit.WEB), [text]) == 0.5
    assert agreement(WordRule(), []) == 0


def test_a_rule_is_described() -> None:
    """A rule has its name and the number of its exceptions."""
    assert describe(WordRule(WordSplit.WEB)) == "`web`"
    assert describe(WordRule(WordSplit.WEB, ("'s",), ("mr.", "..."))) == "`web` with 3 exceptions learned from train"
