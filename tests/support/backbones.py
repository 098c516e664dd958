"""Published backbones of toy size, one for each architecture, with random weights and a tokenizer, written by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

CORPUS = (
    "the cat sat on it . a good cat sat in paris , a bad cat sat on the mat ?",
    "Who sat? In Paris the good cat sat, and it didn't move from London to Berlin.",
    "The Café de Flore, Jürgen's 3rd visit: 東京 is big \U0001f600 and naïve.",
)
_ROBERTA_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


@cache
def wordpiece(special_tokens: tuple[str, ...] = _BERT_TOKENS) -> dict[str, int]:
    """A trained vocabulary of word pieces."""
    trained = tokenizers.Tokenizer(models.WordPiece())
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=180, special_tokens=list(special_tokens), show_progress=False)
    trained.train_from_iterator(CORPUS * 3, trainer)
    return dict(trained.get_vocab(with_added_tokens=True))


@cache
def byte_level_bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a trained byte-level BPE."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=[*_ROBERTA_TOKENS, "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS * 3, trainer)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


@cache
def unigram() -> list[tuple[str, float]]:
    """The pieces and scores of a trained unigram model, as sentencepiece makes them."""
    trained = tokenizers.Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=140,
        special_tokens=list(_ROBERTA_TOKENS),
        unk_token="<unk>",  # noqa: S106, a piece, no password
        show_progress=False,
    )
    trained.train_from_iterator(CORPUS * 30, trainer)
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    return [*((piece, score) for piece, score in pieces), ("<mask>", 0.0)]


def tokenizer(kind: str) -> Any:
    """The transformers tokenizer of an architecture."""
    match kind:
        case "roberta":
            vocabulary, merges = byte_level_bpe()
            return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)
        case "xlm-roberta":
            return transformers.XLMRobertaTokenizer(vocab=unigram())
        case "mpnet":
            # As in the published one, BERT's own special tokens are there as well.
            return transformers.MPNetTokenizer(vocab=wordpiece((*_ROBERTA_TOKENS, *_BERT_TOKENS, "<mask>")))
        case "distilbert":
            return transformers.DistilBertTokenizer(vocab=wordpiece())
        case "electra":
            return transformers.ElectraTokenizer(vocab=wordpiece())
        case _:
            return transformers.BertTokenizer(vocab=wordpiece())


def _behind_padding(**options: Any) -> dict[str, Any]:
    """The sizes of an architecture whose first token has the position after that of padding."""
    return _SIZES | {"max_position_embeddings": 66, "layer_norm_eps": 1e-5} | options


CONFIGS: dict[str, Callable[..., Any]] = {
    "bert": lambda **options: transformers.BertConfig(**_SIZES, **options),
    "minilm": lambda **options: transformers.BertConfig(
        **_SIZES | {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 12}, **options
    ),
    "roberta": lambda **options: transformers.RobertaConfig(**_behind_padding(type_vocab_size=1), **options),
    "xlm-roberta": lambda **options: transformers.XLMRobertaConfig(**_behind_padding(type_vocab_size=1), **options),
    "distilbert": lambda **options: transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=64, **options
    ),
    "electra": lambda **options: transformers.ElectraConfig(**_SIZES, **{"embedding_size": 20} | options),
    "mpnet": lambda **options: transformers.MPNetConfig(**_behind_padding(), **options),
}
"""The config of each architecture, by the name that docs/training.md gives it; 64 tokens fit into a row of any."""


def reference(kind: str, seed: int = 0, **options: Any) -> Any:
    """A transformers model in eval mode, its weights far enough from zero that attention is not just a mean."""
    config = CONFIGS[kind](vocab_size=len(tokenizer(kind)), **options)
    model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                scale = isinstance(module, torch.nn.LayerNorm) and parameter is module.weight
                parameter.normal_(mean=float(scale), std=0.15, generator=generator)
    return model


def write(folder: Path, kind: str, **options: Any) -> Path:
    """Writes an architecture's config, weights and tokenizer into `folder`, all by transformers itself."""
    with _without_progress():
        reference(kind, **options).save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder


@contextmanager
def _without_progress() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()
