"""Tokenizer of a version, read without torch: frontends need only it and the manifest."""

from __future__ import annotations

from pathlib import Path

import tokenizers

from polytask.model.config import NetworkConfig
from polytask.model.encoding import InputEncoder
from polytask.model_store.errors import RESTORE, FileCorrupt, TokenizerMismatch
from polytask.model_store.manifest import TOKENIZER, Manifest
from polytask.model_store.reading import MIB, read_hashed

_MOST_BYTES = 256 * MIB


def load_tokenizer(folder: Path, manifest: Manifest) -> tokenizers.Tokenizer:
    """The tokenizer of the version in `folder`. Raises FileCorrupt, Unreadable or TokenizerMismatch."""
    path = folder / TOKENIZER
    text = read_hashed(path, manifest.files[TOKENIZER], _MOST_BYTES)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing more precise
        raise FileCorrupt(path, f"is not a tokenizer ({error})", RESTORE) from error
    check_tokenizer(tokenizer, manifest.network, path)
    return tokenizer


def check_tokenizer(tokenizer: tokenizers.Tokenizer, network: NetworkConfig, path: Path) -> None:
    """Checks that every id that the tokenizer can give has an embedding. Raises TokenizerMismatch, which names `path`."""
    try:
        encoder = InputEncoder(tokenizer)
    except Exception as error:  # as above
        raise TokenizerMismatch(path, f"cannot encode inputs ({error})", RESTORE) from error
    template = tokenizer.encode("a", "a").ids  # the ids of special tokens need not be in the vocabulary
    highest = max(*tokenizer.get_vocab(with_added_tokens=True).values(), *template)
    if highest >= network.vocab_size:
        problem = f"has token ids up to {highest}, but the network has embeddings for {network.vocab_size} only"
        raise TokenizerMismatch(path, problem, "give each version the tokenizer that it was trained with")
    if 0 < network.num_segments < encoder.num_segments:
        problem = f"has {encoder.num_segments} segments, but the network has embeddings for {network.num_segments} only"
        raise TokenizerMismatch(path, problem, "give each version the tokenizer that it was trained with")
