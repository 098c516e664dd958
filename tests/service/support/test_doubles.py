"""Doubles: gated and failing backends behave as tests expect."""

from __future__ import annotations

import threading

import pytest
import torch

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from tests.service.support.doubles import FailingBackend, GatedBackend, real_backend
from tests.service.support.processes import until

BATCH = collate([Encoding((2, 7, 3), (0, 0, 0))], [0], token_level=False)


def test_a_gated_backend_holds_a_batch_until_the_gate_opens() -> None:
    """A batch at a shut gate has arrived, but has no outputs until the gate opens."""
    backend = GatedBackend()
    backend.shut()
    outputs = []
    thread = threading.Thread(target=lambda: outputs.append(backend.run(BATCH)))
    thread.start()
    until(lambda: bool(backend.batches))
    assert not outputs
    backend.open()
    thread.join()
    assert torch.equal(outputs[0].sentence, real_backend().run(BATCH).sentence)


def test_an_asynchronous_gated_backend_holds_only_the_outputs() -> None:
    """A batch arrives when it is started; its outputs come when the gate opens."""
    backend = GatedBackend(is_async=True)
    backend.shut()
    outputs = backend.start(BATCH)
    assert backend.batches == [BATCH]
    backend.open()
    assert torch.equal(outputs().sentence, real_backend().run(BATCH).sentence)


def test_a_failing_backend_fails_only_the_chosen_batches() -> None:
    """The given error is raised where the predicate holds; other batches get the real outputs."""
    backend = FailingBackend(lambda batch: len(batch.lengths) > 1, MemoryError("full"))
    assert torch.equal(backend.run(BATCH).sentence, real_backend().run(BATCH).sentence)
    two = collate([Encoding((2, 3), (0, 0))] * 2, [0, 1], token_level=False)
    with pytest.raises(MemoryError, match="full"):
        backend.run(two)
    assert backend.batches == [BATCH, two]
