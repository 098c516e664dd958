"""OpenVINO backend: exported files on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polytask.service.backends.contract import Backend
from polytask.service.backends.open_vino import OpenVinoBackend
from tests.model.support.networks import run
from tests.support import exported, tiny


@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_it_gives_what_torch_gives(precision: str, bound: float, tmp_path: Path) -> None:
    """Outputs agree within the precision, whether run or started, and a later batch does not change them."""
    backend: Backend = OpenVinoBackend(exported.write(tmp_path, exported.graph()), precision, 1)
    assert (backend.name, backend.device, backend.precision) == ("openvino", "cpu", precision)
    batch = exported.batch([11, 5, 30, 8, 8, 17, 25])
    expected, found = run(tiny.network(), batch), backend.start(batch)()
    backend.run(exported.batch([11, 5, 30, 8, 8, 17, 25], seed=1))
    assert expected.token is not None
    assert found.token is not None
    torch.testing.assert_close(found.sentence, expected.sentence, atol=bound, rtol=0)
    for row, length in enumerate(batch.lengths.tolist()):
        torch.testing.assert_close(found.token[row, :length], expected.token[row, :length], atol=bound, rtol=0)


def test_in_8_bits_a_row_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """In 8 bits a row's logits do not depend on other rows of its batch, as rows of different lengths run separately."""
    backend = OpenVinoBackend(exported.write(tmp_path, exported.eight_bits("openvino")), "int8", 1)
    lengths = [7, 19, 7, 12, 19, 19, 3, 30]
    batch = exported.batch(lengths)
    together = backend.run(batch)
    assert together.token is not None
    for row, length in enumerate(lengths):
        alone = backend.run(exported.padded(batch, row, length))
        assert alone.token is not None
        assert torch.equal(together.sentence[row], alone.sentence[0])
        assert torch.equal(together.token[row, :length], alone.token[0])


def test_a_signal_does_no_harm_after_a_model_is_gone(tmp_path: Path) -> None:
    """A process that has opened and dropped a backend still handles signals."""
    file = exported.write(tmp_path, exported.graph())
    code = (
        "import gc, signal, sys; from pathlib import Path; from polytask.service.backends.open_vino import OpenVinoBackend\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "runner = OpenVinoBackend(Path(sys.argv[1]), 'float32', 1); del runner; gc.collect()\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    assert subprocess.run([sys.executable, "-c", code, file], check=False).returncode == 7


def test_it_needs_no_other_backend() -> None:
    """The backend can be imported without ONNX Runtime."""
    code = "import sys; sys.modules['onnxruntime'] = None; import polytask.service.backends.open_vino"
    subprocess.run([sys.executable, "-c", code], check=True)
