"""Text pieces: a long text is cut where its tokenizer separates words anyway, so the pieces have the tokens of the whole.

So no call takes long, none keeps the interpreter from other threads, and what a row cannot read is not kept.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import tokenizers

PIECE_LENGTH = 4096
"""Characters after which a text is cut at the next place where it can be: some milliseconds of work."""

FindCut = Callable[[str, int], int]
"""Takes a text and a position. Returns the next place at which the text can be cut, or its length if there is none."""

_SINGLE_BLANK = re.compile(r"(?<=\S) (?=\S)")
_SEPARATE_SIGN = r"(?!^)(?=[!-/:-@\[-`{-~])"  # BERT makes a word of each sign of ASCII's punctuation
_IDEOGRAPH = r"(?!^)(?=[\u4e00-\u9fff])"  # and of each of these, if the normalizer sets them apart

_LOCAL_NORMALIZERS = frozenset(
    {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled", "Nmt"}
)
_LOCAL_PRE_TOKENIZERS = frozenset({"Punctuation", "Digits"})
_BLANK_RUNS = {"Regex": " {2,}"}


def find_cut(tokenizer: tokenizers.Tokenizer) -> FindCut:
    """The places at which texts for a tokenizer can be cut; none for one that may read words across blanks."""
    description = json.loads(tokenizer.to_str())
    normalizers = _members(description["normalizer"], "normalizers")
    pre_tokenizers = _members(description["pre_tokenizer"], "pretokenizers")
    separates = any(map(_separates_at_blanks, pre_tokenizers)) and all(
        _separates_at_blanks(each) or each["type"] in _LOCAL_PRE_TOKENIZERS for each in pre_tokenizers
    )
    if not (separates and all(map(_is_local, normalizers)) and not any(map(_may_cross, description["added_tokens"]))):
        return lambda text, _: len(text)
    if [each["type"] for each in pre_tokenizers] != ["BertPreTokenizer"]:
        return _find_blank
    apart = any(each.get("handle_chinese_chars") for each in normalizers)
    pattern = re.compile("|".join([_SINGLE_BLANK.pattern, _SEPARATE_SIGN, *([_IDEOGRAPH] if apart else [])]))

    def find(text: str, position: int) -> int:
        match = pattern.search(text, position)
        return len(text) if match is None else match.start()

    return find


def cut(text: str, find: FindCut, length: int = PIECE_LENGTH) -> Iterator[tuple[int, str]]:
    """The pieces of a text, each with the position of its first character and of at least `length` but for the last."""
    start = 0
    while start < len(text):
        stop = find(text, start + length)
        yield start, text[start:stop]
        start = stop


def _find_blank(text: str, position: int) -> int:
    """The next single blank between signs that no normalizer makes a blank of."""
    for match in _SINGLE_BLANK.finditer(text, position):
        if _stays(text[match.start() - 1]) and _stays(text[match.end()]):
            return match.start()
    return len(text)


@cache
def _stays(sign: str) -> bool:
    """Whether a sign is still there, and no blank, after any normalizer."""
    return sign.isprintable() and (sign.isascii() or sign.isalnum()) and " " not in unicodedata.normalize("NFKC", sign)


def _members(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [inner for each in part[key] for inner in _members(each, key)] if part["type"] == "Sequence" else [part]


def _separates_at_blanks(pre_tokenizer: dict[str, Any]) -> bool:
    match pre_tokenizer["type"]:
        case "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit":
            return True
        case "ByteLevel":
            return bool(pre_tokenizer["use_regex"])
        case "Metaspace":
            return bool(pre_tokenizer["split"])
    return False


def _is_local(normalizer: dict[str, Any]) -> bool:
    """Whether what a normalizer makes of a word does not depend on what is beyond the blanks around it."""
    match normalizer["type"]:
        case "Strip":
            return not normalizer["strip_left"]
        case "Replace":
            return bool(normalizer["pattern"] == _BLANK_RUNS)
    return normalizer["type"] in _LOCAL_NORMALIZERS


def _may_cross(token: dict[str, Any]) -> bool:
    """Whether an added token may take a single blank with it. Special ones are not looked for in texts."""
    content = token["content"]
    return not token["special"] and (token["lstrip"] or token["rstrip"] or (" " in content and bool(content.strip())))
