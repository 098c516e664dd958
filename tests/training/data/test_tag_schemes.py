"""Tag schemes: every scheme is recognised, the same entities come out of each, and tags that do not fit are named."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, Entities

from polytask.model.answers import word_runs
from polytask.training.data.tag_schemes import PLAIN, iob2_labels, recognise, to_iob2

_Entity = tuple[str, int]
"""Type and number of words; the type is empty for words outside of entities."""

_SENTENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(["PER", "LOC", ""]), st.integers(1, 3)), max_size=6), min_size=1, max_size=8
)


def _write(entities: Sequence[_Entity], scheme: str) -> list[str]:
    """The tags of a sentence in a scheme, by its definition."""
    tags, before = list[str](), ""
    for entity_type, length in entities:
        if not entity_type:
            tags += ["O"] * length
        elif scheme == "IOB1":
            tags += ["B" if before == entity_type else "I"] + ["I"] * (length - 1)
        elif scheme == "IOB2":
            tags += ["B"] + ["I"] * (length - 1)
        else:
            begin, inside, end, single = (*{"BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}[scheme],)
            tags += [single] if length == 1 else [begin, *[inside] * (length - 2), end]
        tags[len(tags) - length :] = [
            tag if tag == "O" else f"{tag}-{entity_type}" for tag in tags[len(tags) - length :]
        ]
        before = entity_type
    return tags


@given(_SENTENCES, st.sampled_from(["IOB1", "IOB2", "BIOES", "BILOU", "BMES"]))
def test_every_scheme_gives_the_same_entities(sentences: list[list[_Entity]], scheme: str) -> None:
    """Whatever the scheme, the converted tags are those of the same entities in IOB2."""
    for sentence in sentences:
        tags = to_iob2(_write(sentence, scheme))
        assert tags == _write(sentence, "IOB2")
        assert [run[1:] for run in word_runs(tags, bio=True)] == [
            (start, end + 1) for _, start, end in get_entities(_write(sentence, "IOB2"))
        ]
        assert set(tags) <= set(iob2_labels(_write(sentence, scheme)))


@pytest.mark.parametrize(("scheme", "reference"), [("IOB1", IOB1), ("IOB2", IOB2), ("BIOES", IOBES), ("BILOU", BILOU)])
def test_entities_are_those_of_seqeval(scheme: str, reference: type) -> None:
    """The converted tags hold the entities that seqeval finds by the scheme's own rules."""
    sentence = [("PER", 2), ("PER", 1), ("", 1), ("LOC", 3), ("PER", 1), ("", 2), ("LOC", 1)]
    (entities,) = Entities([_write(sentence, scheme)], reference).entities
    runs = word_runs(to_iob2(_write(sentence, scheme)), bio=True)
    assert [(entity.tag, entity.start, entity.end) for entity in entities] == runs


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU", "BMES"])
@pytest.mark.parametrize("form", ["usual", "lower", "_"])
def test_a_scheme_is_recognised_in_every_spelling(scheme: str, form: str) -> None:
    """A scheme is recognised with small prefixes and with underscores, too, and its tags convert to the same entities."""
    sentence = [("PER", 3), ("", 1), ("LOC", 1), ("LOC", 1), ("", 1), ("PER", 2)]
    tags = [tag[:1].lower() + tag[1:] if form == "lower" else tag for tag in _write(sentence, scheme)]
    tags = [tag.replace("-", "_") if form == "_" else tag for tag in tags]
    found = recognise([tags] * 5)
    assert (found.name, found.entities, found.misfits) == (scheme, True, frozenset())
    assert to_iob2(tags) == _write(sentence, "IOB2")


@pytest.mark.parametrize("misfit", ["B_PER", "b-PER", "BPER", "E-PER", "PER", "o", "0", "B-", "-"])
def test_one_tag_among_hundreds_does_not_change_the_task(misfit: str) -> None:
    """A single tag that does not fit is named, and the others remain marks of entities."""
    found = recognise([["O", "B-PER", "I-PER", "O", "B-LOC"]] * 100 + [["O", misfit]])
    assert (found.name, found.entities, set(found.misfits)) == ("IOB2", True, {misfit})


@pytest.mark.parametrize(
    "tags",
    [
        ["NOUN", "VERB", "DET", "X"],
        ["NN", "B", "I", "VB", "JJ", "DT"],
        ["N-soort", "V-pv", "ADJ", "BW", "LID", "VZ", "TW"],
        ["neg", "pos"],
        ["B", "S"],
    ],
)
def test_plain_tags_stay_plain(tags: list[str]) -> None:
    """Parts of speech and other labels of words are not taken for marks of entities."""
    assert recognise([tags] * 10) == PLAIN


def test_what_the_recipe_says_is_so() -> None:
    """Tags are plain or marks of entities if that is said, whatever they look like."""
    assert recognise([["O", "B-PER", "I-PER"]], entities=False) == PLAIN
    assert recognise([["O", "B-PER", "NOUN", "VERB", "DET"]], entities=True).misfits == {"NOUN", "VERB", "DET"}


def test_tags_without_a_type_have_one() -> None:
    """`B`, `I` and `O` alone mark entities of one type."""
    found = recognise([["O", "B", "I", "O", "B"]])
    assert (found.entities, found.bare, found.misfits) == (True, True, frozenset())
    assert to_iob2(["O", "B", "I", "B"]) == ["O", "B-entity", "I-entity", "B-entity"]


def test_entities_that_begin_with_i_are_counted() -> None:
    """In IOB2 an `I-` without its `B-` opens an entity, as in conlleval, and is counted."""
    found = recognise([["B-PER", "I-PER", "O", "B-LOC"]] * 9 + [["O", "I-LOC", "B-PER", "I-LOC"]])
    assert (found.name, found.strays) == ("IOB2", 2)
    assert to_iob2(["O", "I-LOC", "B-PER", "I-LOC"]) == ["O", "B-LOC", "B-PER", "B-LOC"]
