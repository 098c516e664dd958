"""Data that a tiny network can learn, a backbone for it, and a recipe that brings both together.

One task of each kind, each decided by single words: good or bad, cat, paris.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from polytask.model.tasks import Kind
from polytask.model_store import backbones as bases
from polytask.training.recipes.schema import Recipe
from tests.support import tiny

Record = dict[str, Any]

TASKS = {
    Kind.CLASSIFICATION: "mood",
    Kind.MULTILABEL: "topics",
    Kind.REGRESSION: "closeness",
    Kind.RANKING: "relevance",
    Kind.MULTIPLE_CHOICE: "choice",
    Kind.TAGGING: "entities",
    Kind.SPAN: "answer",
}
"""The name of each kind's task."""

NAMED = "toys/bert"
"""The name of the backbone that a package carries."""

_WIDTH = 32
_INNER = 64
_LAYERS = 2
_POSITIONS = 64
_FILLERS = ("the", "sat", ".", "a", "on", "it")


# Records


def records(kind: Kind, count: int, seed: int = 0) -> list[Record]:
    """`count` records of a kind (for ranking: queries, each with its candidates), the same ones for the same seed."""
    generator = random.Random(f"{kind} {seed}")  # noqa: S311 - sampling, not cryptography
    return [record for index in range(count) for record in RECORD_CLASSES[kind](generator, index)]


def _words(generator: random.Random, *extra: str) -> list[str]:
    words = [*generator.choices(_FILLERS, k=generator.randint(2, 5)), *extra]
    generator.shuffle(words)
    return words


def _text(generator: random.Random, *extra: str) -> str:
    return " ".join(_words(generator, *extra))


def _mood(generator: random.Random, index: int) -> Iterator[Record]:
    label = ("good", "bad")[index % 2]
    yield {"text": _text(generator, label), "label": label}


def _topics(generator: random.Random, index: int) -> Iterator[Record]:
    words = [word for word, bit in (("cat", 1), ("paris", 2)) if index & bit]
    yield {"text": _text(generator, *words), "labels": [{"cat": "cats", "paris": "cities"}[word] for word in words]}


def _closeness(generator: random.Random, index: int) -> Iterator[Record]:
    value = index % 5
    yield {"text": _text(generator), "text_pair": _text(generator, *["good"] * value), "label": value + 0.5}


def _relevance(generator: random.Random, index: int) -> Iterator[Record]:
    query, right = f"paris {_text(generator)}", index % 3
    for candidate in range(3):
        word = "paris" if candidate == right else "cat"
        text = _text(generator, word)
        yield {"group": f"q{index}", "text": query, "text_pair": text, "label": int(candidate == right)}


def _choice(generator: random.Random, index: int) -> Iterator[Record]:
    choices = [_text(generator, "cat" if choice == index % 3 else "bad") for choice in range(3)]
    yield {"text": _text(generator), "question": "a cat?", "choices": choices, "label": index % 3}


def _entities(generator: random.Random, index: int) -> Iterator[Record]:
    tokens = _words(generator, "cat") + ["paris", "good"] * (index % 2)
    tags = {"cat": "B-animal", "paris": "B-place", "good": "I-place"}
    yield {"tokens": tokens, "tags": [tags.get(token, "O") for token in tokens]}


def _answer(generator: random.Random, _place: int) -> Iterator[Record]:
    context = _text(generator, "paris")
    yield {"text": "a cat?", "text_pair": context, "answers": [{"text": "paris", "start": context.index("paris")}]}


RECORD_CLASSES = {
    Kind.CLASSIFICATION: _mood,
    Kind.MULTILABEL: _topics,
    Kind.REGRESSION: _closeness,
    Kind.RANKING: _relevance,
    Kind.MULTIPLE_CHOICE: _choice,
    Kind.TAGGING: _entities,
    Kind.SPAN: _answer,
}


def write_records(path: Path, lines: Sequence[Record]) -> Path:
    """The records as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_data(folder: Path, train: int = 60, validation: int = 24) -> Path:
    """`NAME/train.jsonl` and `NAME/validation.jsonl` of every task."""
    for kind, name in TASKS.items():
        write_records(folder / name / "train.jsonl", records(kind, train))
        write_records(folder / name / "validation.jsonl", records(kind, validation, seed=1))
    return folder


# Backbone


def write_backbone(folder: Path, layers: int = _LAYERS, positions: int = _POSITIONS) -> Path:
    """A published BERT of two or more layers and width 32, with the tokenizer of `tests.tiny`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = published_tensors(layers, positions)
    config = published_config() | {"num_hidden_layers": layers, "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tiny.tokenizer().save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors")
    return folder


def install_backbone(folder: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backbone in `folder` as that of an installed package, which is made in `packages`. Returns its name."""
    package = packages / "toy_bert_backbone"
    shutil.copytree(folder, package / "model")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setitem(bases._PACKAGES, NAMED, (package.name, "pip install toy-bert-backbone"))
    return NAMED


def published_config() -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": len(tiny.VOCABULARY),
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": _INNER,
        "max_position_embeddings": _POSITIONS,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }


def published_tensors(layers: int = _LAYERS, positions: int = _POSITIONS) -> dict[str, Tensor]:
    """Random weights under the names of a published BERT."""
    matrices = {
        "embeddings.word_embeddings": (len(tiny.VOCABULARY), _WIDTH),
        "embeddings.position_embeddings": (positions, _WIDTH),
        "embeddings.token_type_embeddings": (2, _WIDTH),
    }
    linear, norms = {"pooler.dense": (_WIDTH, _WIDTH)}, ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{part}"] = (_WIDTH, _WIDTH)
        linear[f"{layer}.intermediate.dense"] = (_INNER, _WIDTH)
        linear[f"{layer}.output.dense"] = (_WIDTH, _INNER)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.weight": torch.randn(shape, generator=generator) * 0.15 for name, shape in (matrices | linear).items()
    }
    tensors |= {f"{name}.bias": torch.randn(shape[0], generator=generator) * 0.01 for name, shape in linear.items()}
    for name in norms:
        tensors[f"{name}.weight"] = 1 + torch.randn(_WIDTH, generator=generator) * 0.01
        tensors[f"{name}.bias"] = torch.randn(_WIDTH, generator=generator) * 0.01
    return tensors


# Recipe


def fields(
    backbone: Path | str, kinds: Sequence[Kind] = tuple(TASKS), /, **sections: Mapping[str, Any]
) -> dict[str, Any]:
    """A recipe for the tasks of `kinds` on `write_data`; `sections` change or add keys, section by section."""
    recipe: dict[str, Any] = {
        "name": "toy",
        "seed": 3,
        "backbone": {"name": str(backbone), "max_length": 48, "frozen_layers": 1},
        "conditioning": {"attention": [0, 1], "attention_blocks": 4, "layer_norm": [1]}
        | {"bottleneck": [0, 1], "bottleneck_size": 8},
        "optimizer": {"learning_rate": 2e-3, "added_learning_rate": 1e-2},
        "sampler": {},
        "length": {"examples": 480, "batch_rows": 16, "batch_tokens": 512, "bf16": False},
        "tasks": [task_fields(kind) for kind in kinds],
    }
    for section, changes in sections.items():
        recipe[section] = recipe.get(section, {}) | changes
    return recipe


def task_fields(kind: Kind) -> dict[str, Any]:
    """The recipe's entry for the task of a kind."""
    name = TASKS[kind]
    own: dict[str, Any] = {"name": name, "kind": str(kind), "max_length": 40}
    own |= {"train": f"{name}/train.jsonl", "validation": f"{name}/validation.jsonl"}
    return own


def recipe(backbone: Path | str, kinds: Sequence[Kind] = tuple(TASKS), /, **sections: Mapping[str, Any]) -> Recipe:
    """The same as a recipe in memory."""
    return Recipe.model_validate(fields(backbone, kinds, **sections))


def to_toml(recipe_fields: Mapping[str, Any]) -> str:
    """A recipe's fields as TOML: plain values, sections, and lists of sections."""
    return "\n".join(_toml_lines(recipe_fields, ""))


def _toml_lines(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    nested = {key: value for key, value in table.items() if _is_table(value) or _is_table_list(value)}
    for key, value in table.items():
        if key not in nested:
            yield f"{key} = {json.dumps(value)}"
    for key, value in nested.items():
        for entry in [value] if _is_table(value) else value:
            yield f"[{prefix}{key}]" if _is_table(value) else f"[[{prefix}{key}]]"
            yield from _toml_lines(entry, f"{prefix}{key}.")


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _is_table_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_table(entry) for entry in value)
