"""Tag schemes: how the tags of words mark entities, recognised over a whole data set and converted to IOB2.

IOB2 opens every entity with `B-` and goes on with `I-`. IOB1 (Ramshaw and Marcus, 1995) opens with `B-` only right after
an entity of the same type. BIOES, BILOU and BMES also mark the last word of an entity and entities of one word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

ENTITY = "entity"
"""The type of entities whose tags name none (`B`, `I`, `O`)."""

_TAG = re.compile(r"([BIESLUM])(?:([-_])(.+))?", re.IGNORECASE | re.DOTALL)
_SCHEMES = {"IOB": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}
_OPENING, _CLOSING = frozenset("BSU"), frozenset("ESLU")


@dataclass(frozen=True, slots=True)
class TagScheme:
    """The scheme of a data set's tags.

    `name`: IOB1, IOB2, BIOES, BILOU or BMES. `entities`: whether the tags mark entities; if not, they are plain labels of
    words. `misfits`: the tags that do not fit the scheme of the others. `strays`: number of entities that IOB2 opens with
    `I-`, as IOB1 does; they are read as entities of their own, as by conlleval. `bare`: the tags name no type.
    """

    name: str
    entities: bool
    misfits: frozenset[str] = frozenset()
    strays: int = 0
    bare: bool = False


PLAIN = TagScheme("plain", entities=False)


def recognise(sequences: Sequence[Sequence[str]], *, entities: bool | None = None) -> TagScheme:
    """The scheme of the tags of all sentences. `entities`: whether they mark entities, if that is known.

    Without `entities`, tags are plain unless at least half of the different ones look like marks of entities.
    """
    counts = Counter(tag for tags in sequences for tag in tags)
    marks = {tag: match for tag in counts if (match := _TAG.fullmatch(tag)) is not None}
    typed = any(match[2] for match in marks.values())
    marks = {tag: match for tag, match in marks.items() if bool(match[2]) == typed}
    others = {tag for tag in counts if tag not in marks and tag.upper() != "O"}
    if entities is None:
        entities = _mark_entities({match[1].upper() for match in marks.values()}, len(marks), len(others), typed=typed)
    if not entities:
        return PLAIN
    forms = Counter[tuple[str | None, bool]]()
    for tag, match in marks.items():
        forms[match[2], match[1].isupper()] += counts[tag]
    form = forms.most_common(1)[0][0] if forms else ("-", True)
    misfits = others | {tag for tag, match in marks.items() if (match[2], match[1].isupper()) != form}
    misfits |= {"o"} & counts.keys() if form[1] else set()
    prefixes = Counter[str]()
    for tag, match in marks.items():
        if tag not in misfits:
            prefixes[match[1].upper()] += counts[tag]
    scheme = _family(prefixes)
    misfits |= {tag for tag, match in marks.items() if match[1].upper() not in _SCHEMES[scheme]}
    strays = 0
    if scheme == "IOB":
        opened_by_i, opened_by_b = _openings(sequences)
        scheme, strays = ("IOB1", 0) if opened_by_i and not opened_by_b else ("IOB2", opened_by_i)
    return TagScheme(scheme, entities=True, misfits=frozenset(misfits), strays=strays, bare=bool(marks) and not typed)


def to_iob2(tags: Iterable[str]) -> list[str]:
    """The tags of a sentence in IOB2, from any scheme. A tag that marks no entity stays as it is."""
    converted, open_type = [], None
    for tag in tags:
        prefix, entity_type = _parse(tag)
        if entity_type is None:
            converted.append("O" if prefix == "O" else tag)
        else:
            opens = prefix in _OPENING or entity_type != open_type
            converted.append(f"{'B' if opens else 'I'}-{entity_type}")
        open_type = None if prefix in _CLOSING else entity_type
    return converted


def iob2_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The IOB2 tags that sentences with the given tags can have after `to_iob2`, in their order."""
    converted: list[str] = []
    for label in labels:
        prefix, entity_type = _parse(label)
        if entity_type is None:
            converted.append("O" if prefix == "O" else label)
        else:
            converted += [f"B-{entity_type}", f"I-{entity_type}"]
    return tuple(dict.fromkeys(converted))


def _parse(tag: str) -> tuple[str, str | None]:
    """The prefix and the type of a tag; no type if it marks no entity."""
    match = _TAG.fullmatch(tag)
    return (tag.upper(), None) if match is None else (match[1].upper(), match[3] or ENTITY)


def _mark_entities(prefixes: set[str], num_marks: int, num_others: int, *, typed: bool) -> bool:
    if typed:
        return bool(prefixes & {"B", "I", "S", "U"}) and num_marks >= num_others
    # A plain tag may be a single letter, too.
    return "B" in prefixes and bool(prefixes & {"I", "M"}) and num_others <= num_marks // 2


def _family(prefixes: Counter[str]) -> str:
    """The scheme with most of the prefixes. Where every entity has a last word, there are as many of them as of first ones."""
    scores = {scheme: sum(prefixes[prefix] for prefix in used) for scheme, used in _SCHEMES.items()}
    if sum(prefixes[prefix] for prefix in _CLOSING) < prefixes["B"] / 2:
        return "IOB"
    return max(scores, key=lambda scheme: scores[scheme])


def _openings(sequences: Iterable[Sequence[str]]) -> tuple[int, int]:
    """Number of entities that open with `I`, and of those that open with `B` where IOB1 would have `I`."""
    by_i = by_b = 0
    for prefix, continues in (opening for tags in sequences for opening in _marks(tags)):
        by_i += prefix == "I" and not continues
        by_b += prefix == "B" and not continues
    return by_i, by_b


def _marks(tags: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The prefix of each word of an entity, and whether the word before is of the same type."""
    before = None
    for tag in tags:
        prefix, entity_type = _parse(tag)
        if entity_type is not None:
            yield prefix, entity_type == before
        before = entity_type
