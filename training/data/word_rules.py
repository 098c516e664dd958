"""Word rules: the rule for raw text that agrees best with the words that a tagging task is trained on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from polytask.model.encoding import Input
from polytask.model.words import Offsets, WordRule, WordSplit, word_key

_COMPARED_TEXTS = 1_000
_LEARNED_TEXTS = 10_000
_MAX_WHOLE = 5_000
_MIN_COUNT = 3


def choose_word_rule(texts: Sequence[Input], splits: Iterable[WordSplit] = tuple(WordSplit)) -> WordRule:
    """The rule for running texts with known words, of those for `splits`; of equally good ones the first.

    They are compared by their `agreement` on some of the texts, with exceptions learned from others.
    """
    few = _spread(texts, _COMPARED_TEXTS)
    learned_from, measured_on = few[::2], few[1::2] or few
    best = max(splits, key=lambda split: agreement(_learn(split, learned_from), measured_on))
    return _learn(best, _spread(texts, _LEARNED_TEXTS))


def agreement(rule: WordRule, texts: Sequence[Input]) -> float:
    """The share of the words of running texts that are words by the rule as well."""
    found = sum(len(_given(text).intersection(rule.words(text.text))) for text in texts)
    return found / max(1, sum(len(text.words or ()) for text in texts))


def describe(rule: WordRule) -> str:
    """The rule for people."""
    exceptions = len(rule.apart) + len(rule.whole)
    return f"`{rule.split}`" + (f" with {exceptions:,} exceptions learned from train" if exceptions else "")


def _learn(split: WordSplit, texts: Sequence[Input]) -> WordRule:
    """The rule for `split`, with the exceptions that the texts make to it at least three times and mostly."""
    rule = WordRule(split)
    rule = replace(rule, apart=tuple(_apart(rule, texts)))
    return replace(rule, whole=tuple(_whole(rule, texts)))


def _apart(rule: WordRule, texts: Sequence[Input]) -> Iterator[str]:
    """Beginnings and ends with an apostrophe that are words of their own where the rule makes them part of a word."""
    parted, kept = Counter[str](), Counter[str]()
    for text in texts:
        key, given = word_key(text.text), text.words or ()
        for start, end in rule.words(text.text):
            if "'" in key[start:end]:
                parts = [key[s:e] for s, e in _tiling(start, end, given)]
                if len(parts) == 1:
                    kept[parts[0]] += 1
                elif parts and parts[0].endswith("'"):
                    parted[parts[0]] += 1
                elif parts and "'" in parts[-1]:
                    parted[parts[-1]] += 1
    for affix, count in parted.items():
        is_affix = str.startswith if affix.endswith("'") else str.endswith
        if count >= _MIN_COUNT and count > sum(n for word, n in kept.items() if is_affix(word, affix)):
            yield affix


def _whole(rule: WordRule, texts: Sequence[Input]) -> Iterator[str]:
    """Words that the rule cuts, the most frequent ones."""
    cut = Counter[str]()
    for text in texts:
        key, found = word_key(text.text), rule.words(text.text)
        cut.update(key[start:end] for start, end in _given(text).difference(found) if _tiling(start, end, found))
    frequent = {word for word, count in cut.items() if count >= _MIN_COUNT}
    # A merged word may also be several words in the data: "no." at the end of a sentence and in "No. 5".
    merging, balance = replace(rule, whole=tuple(frequent)), Counter[str]()
    for text in texts:
        key, given = word_key(text.text), _given(text)
        for start, end in set(merging.words(text.text)).difference(rule.words(text.text)):
            balance[key[start:end]] += 1 if (start, end) in given else -1
    return (word for word, surplus in balance.most_common(_MAX_WHOLE) if surplus > 0)


def _spread(texts: Sequence[Input], limit: int) -> Sequence[Input]:
    """At most `limit` texts from all over the data, which may be sorted."""
    return texts[:: max(1, -(-len(texts) // limit))]


def _given(text: Input) -> set[tuple[int, int]]:
    return set(text.words or ())


def _tiling(start: int, end: int, words: Offsets) -> Offsets:
    """Those of the words that together cover the range from `start` to before `end` without a gap; none if they do not."""
    first = bisect_left(words, (start, start))
    last = bisect_left(words, (end, end), first)
    inside = words[first:last]
    edges = [start, *(word_end for _, word_end in inside)]
    return inside if edges == [*(word_start for word_start, _ in inside), end] else ()
