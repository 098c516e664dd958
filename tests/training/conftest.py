"""Fixtures of the training tests: toy data, its backbone, and a network that is ready to train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.training.backbone import Backbone, build_network, load_backbone
from polytask.training.data.examples import EncodedExample, TaskData, encode_examples
from polytask.training.preparation import load_data
from polytask.training.recipes.schema import Recipe
from tests.training.support import toy


@dataclass(frozen=True, slots=True)
class Workshop:
    """Everything that a toy run needs; `network()` gives a fresh network each time."""

    folder: Path
    recipe: Recipe
    backbone: Backbone
    encoder: InputEncoder
    data: list[TaskData]
    examples: list[list[EncodedExample]]

    def network(self) -> Network:
        """The recipe's network before training."""
        return build_network(self.recipe, self.backbone, [task_data.task for task_data in self.data])


def build_workshop(folder: Path) -> Workshop:
    """The toy run of all seven kinds on a folder with `backbone/` and `data/`."""
    recipe = toy.recipe(folder / "backbone")
    backbone = load_backbone(recipe.backbone.name)
    encoder = InputEncoder(backbone.tokenizer)
    data = load_data(recipe, folder / "data", Console(quiet=True))
    examples = [
        encode_examples(encoder, task_data.task, task_id, task_data.train) for task_id, task_data in enumerate(data)
    ]
    return Workshop(folder, recipe, backbone, encoder, data, examples)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `backbone/` and `data/`."""
    folder = tmp_path_factory.mktemp("toy")
    toy.write_backbone(folder / "backbone")
    toy.write_data(folder / "data")
    return folder


@pytest.fixture(scope="session")
def workshop(toy_folder: Path) -> Workshop:
    """The toy run of all seven kinds."""
    return build_workshop(toy_folder)


@pytest.fixture
def named_backbone(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a backbone that an installed package carries."""
    return toy.install_backbone(toy_folder / "backbone", tmp_path / "packages", monkeypatch)
