"""Tiny network for tests: sizes, tasks of every kind, a tokenizer and inputs."""

from __future__ import annotations

import string
from collections.abc import Sequence

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers

from polytask.model.conditioning import Conditional
from polytask.model.config import NetworkConfig
from polytask.model.encoding import Input
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = ("the", "cat", "sat", "good", "bad", "paris", ".", ",", "?")
VOCABULARY = (*_SPECIAL, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *_WORDS)


def config() -> NetworkConfig:
    """Two layers of width 32, with every conditional module on in both and attention blocks of 16 tokens."""
    return NetworkConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=64,
        max_length=64,
        attention_blocks=4,
        bottleneck_size=8,
        conditional_alignment=True,
        conditional_attention=(0, 1),
        conditional_layer_norm=(0, 1),
        conditional_bottleneck=(0, 1),
    )


def tasks() -> tuple[Task, ...]:
    """One task of each of the seven kinds."""
    return (
        Task("mood", Kind.CLASSIFICATION, 32, labels=("good", "bad", "neither")),
        Task("topics", Kind.MULTILABEL, 32, labels=("cats", "cities", "food"), thresholds=(0.5, 0.4, 0.6)),
        Task("closeness", Kind.REGRESSION, 48, pair=True, value_range=(0.0, 5.0)),
        Task("relevance", Kind.RANKING, 48, pair=True),
        Task("choice", Kind.MULTIPLE_CHOICE, 48, pair=True),
        Task("entities", Kind.TAGGING, 32, labels=("O", "B-place", "I-place", "B-animal", "I-animal")),
        Task("answer", Kind.SPAN, 64, pair=True),
    )


def inputs() -> dict[str, Input]:
    """An input for each task of `tasks`, by the task's name."""
    return {
        "mood": Input("The cat sat, good."),
        "topics": Input("A cat in Paris"),
        "closeness": Input("The cat sat.", "A cat sits."),
        "relevance": Input("Which cat?", candidates=("the bad cat", "paris", "a good cat sat")),
        "choice": Input("The cat", candidates=("sat.", "is in Paris.")),
        "entities": Input("The cat sat in Paris."),
        "answer": Input("Who sat?", "In Paris the cat sat."),
    }


def network(seed: int = 0, its_tasks: Sequence[Task] | None = None) -> Network:
    """A network of `config` and `tasks`, or of other tasks, in eval mode, in which conditioning matters; fixed by its seed."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        built = Network(config(), its_tasks or tasks())
        for module in built.modules():
            if isinstance(module, Conditional):
                _randomise_zeros(module)
        # Logits apart from each other, so that a wrong row or a wrong head shows.
        built.heads.sentence.weight.normal_(std=0.3)
        built.heads.token.weight.normal_(std=0.3)
    return built.eval()


def _randomise_zeros(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_(std=0.3)


def tokenizer() -> tokenizers.Tokenizer:
    """A BERT-style tokenizer that knows the letters and a few words."""
    vocabulary = {piece: index for index, piece in enumerate(VOCABULARY)}
    built = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106, a piece, no password
    built.add_special_tokens(list(_SPECIAL))
    built.normalizer = normalizers.BertNormalizer(lowercase=True)
    built.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return built
