"""ONNX Runtime backend: exported files on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polytask.model.heads import Outputs
from polytask.service.backends.contract import Backend
from polytask.service.backends.onnx_runtime import CUDA, OnnxRuntimeBackend
from polytask.service.errors import StartupError
from tests.model.support.networks import run
from tests.support import exported, tiny


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> OnnxRuntimeBackend:
    """The tiny network in 8 bits."""
    return OnnxRuntimeBackend(
        exported.write(tmp_path_factory.mktemp("int8"), exported.eight_bits("onnxruntime")), "int8", 1
    )


def test_float32_gives_what_torch_gives(tmp_path: Path) -> None:
    """Outputs agree to 1e-4 for rows of several tasks and lengths, whether run or started."""
    backend: Backend = OnnxRuntimeBackend(exported.write(tmp_path, exported.graph()), "float32", 1)
    assert (backend.name, backend.device, backend.precision) == ("onnxruntime", "cpu", "float32")
    batch = exported.batch([11, 5, 30, 8, 8, 17, 25])
    expected, found = run(tiny.network(), batch), backend.start(batch)()
    assert expected.token is not None
    assert found.token is not None
    torch.testing.assert_close(found.sentence, expected.sentence, atol=1e-4, rtol=0)
    for row, length in enumerate(batch.lengths.tolist()):
        torch.testing.assert_close(found.token[row, :length], expected.token[row, :length], atol=1e-4, rtol=0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=9),
    seed=st.integers(0, 99),
    padding=st.integers(0, 20),
    data=st.data(),
)
def test_in_8_bits_a_row_is_the_same_to_the_bit(
    int8: OnnxRuntimeBackend, lengths: list[int], seed: int, padding: int, data: st.DataObject
) -> None:
    """A row's logits depend neither on the other rows of its batch nor on its padding."""
    batch = exported.batch(lengths, seed=seed)
    row = data.draw(st.integers(0, len(lengths) - 1))
    together = int8.run(batch)
    for length in (lengths[row], lengths[row] + padding):
        alone = int8.run(exported.padded(batch, row, length))
        assert torch.equal(together.sentence[row], alone.sentence[0])
        assert_same_tokens(together, row, alone, lengths[row])


def assert_same_tokens(together: Outputs, row: int, alone: Outputs, length: int) -> None:
    """The real tokens of a padded row have the same logits to the bit."""
    assert together.token is not None
    assert alone.token is not None
    assert torch.equal(together.token[row, :length], alone.token[0, :length])


def test_too_little_memory_has_its_name(int8: OnnxRuntimeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's errors about memory become MemoryError; other errors stay unchanged."""

    class Failing:
        def __init__(self, text: str) -> None:
            self.text = text

        def run(self, *_: object) -> None:
            raise RuntimeError(self.text)

    monkeypatch.setattr(int8, "_session", Failing("Failed to allocate memory for requested buffer of size 9"))
    with pytest.raises(MemoryError, match=r"\[1, 4\] tokens"):
        int8.run(exported.batch([4]))
    monkeypatch.setattr(int8, "_session", Failing("index out of range"))
    with pytest.raises(RuntimeError, match="out of range"):
        int8.run(exported.batch([4]))


def test_a_provider_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    """An execution provider that is missing stops the start, and the message names the package that has it."""
    if CUDA[0] in onnxruntime.get_available_providers():
        pytest.skip("this build has it")
    with pytest.raises(StartupError, match=r"no CUDAExecutionProvider.* install onnxruntime-gpu"):
        OnnxRuntimeBackend(exported.write(tmp_path, exported.graph()), "float32", 1, providers=CUDA)


def test_streams_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Batches that run side by side have the same logits as alone, to the bit."""
    file = exported.write(tmp_path, exported.eight_bits("onnxruntime"))
    backend = OnnxRuntimeBackend(file, "int8", threads=2, num_streams=2)
    batches = [exported.batch([length, 30 - length, 9], seed=length) for length in range(3, 27)]
    expected = [backend.run(batch) for batch in batches]
    with ThreadPoolExecutor(backend.num_streams) as threads:
        for found, alone in zip(threads.map(backend.run, batches), expected, strict=True):
            assert torch.equal(found.sentence, alone.sentence)
