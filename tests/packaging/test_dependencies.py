"""Dependencies: what each extra brings, resolved by pip from its index under constraints.txt."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from tests.packaging.conftest import Wheels
from tests.packaging.support.distributions import ROOT, Resolution, constrained, resolve

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = [
    extra for extra in PROJECT["optional-dependencies"] if extra != "dev"
]  # the other extras and tools, resolved for this very run
_CUDA = ("cuda-", "nvidia-", "triton", "cupy", "pycuda")


@pytest.fixture(scope="module")
def resolution(wheels: Wheels, tmp_path_factory: pytest.TempPathFactory) -> Resolution:
    """All extras at once: every version is pinned, so one alone resolves to the same."""
    wanted = f"{wheels.polytask}[{','.join(EXTRAS)}]"
    return resolve(tmp_path_factory.mktemp("resolution"), wanted, wheels.client)


@pytest.mark.parametrize("extra", EXTRAS)
def test_no_extra_brings_cuda(extra: str, resolution: Resolution) -> None:
    """Libraries of CUDA come with a build of torch for CUDA, and with nothing else."""
    assert not [name for name in resolution.needed("polytask", [extra], but="torch") if name.startswith(_CUDA)]


def test_with_a_torch_for_the_cpu_there_is_no_cuda_at_all(resolution: Resolution) -> None:
    """Where pip finds the CPU build of torch, all extras together install no library of CUDA."""
    cuda = [name for name in resolution.versions if name.startswith(_CUDA)]
    assert not cuda or not resolution.versions["torch"].endswith("+cpu")


@pytest.mark.parametrize("extra", EXTRAS)
def test_only_the_extra_gpu_brings_the_cuda_build_of_onnx_runtime(extra: str, resolution: Resolution) -> None:
    """The extra `gpu` needs `onnxruntime-gpu`, and no extra needs both builds, which overwrite each other."""
    needed = resolution.needed("polytask", [extra])
    assert ("onnxruntime-gpu" in needed) == (extra == "gpu")
    assert not {"onnxruntime", "onnxruntime-gpu"} <= needed


@pytest.mark.parametrize(("platform", "wanted"), [("linux", True), ("win32", True), ("darwin", False)])
def test_the_cuda_build_of_onnx_runtime_is_wanted_where_it_has_wheels(platform: str, wanted: bool) -> None:
    """The extra `gpu` can be installed on macOS, for which `onnxruntime-gpu` has no wheel."""
    (gpu,) = (
        requirement
        for requirement in map(Requirement, PROJECT["optional-dependencies"]["gpu"])
        if requirement.name == "onnxruntime-gpu"
    )
    assert gpu.marker is not None
    assert gpu.marker.evaluate({"sys_platform": platform}) == wanted


def test_both_builds_of_onnx_runtime_have_one_version() -> None:
    """A version that was exported and measured on a CPU meets the same release on a GPU."""
    assert constrained()["onnxruntime"] == constrained()["onnxruntime-gpu"]


def test_constraints_pin_every_version(resolution: Resolution) -> None:
    """Whatever extra is installed, no version is left to the day; only what torch's build for CUDA needs is its own."""
    torch_only = set(resolution.versions) - resolution.needed("polytask", EXTRAS, but="torch")
    unpinned = set(resolution.versions) - set(constrained()) - torch_only - {"polytask", "polytask-client"}
    assert not unpinned


def test_every_version_runs_on_the_oldest_python(resolution: Resolution) -> None:
    """No pinned version needs a newer Python than pyproject.toml promises; Debian 12 has 3.11.2."""
    oldest = f"{PROJECT['requires-python'].removeprefix('>=')}.0"
    assert not [name for name, specifier in resolution.pythons.items() if oldest not in specifier]
