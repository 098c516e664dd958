"""CUDA backend, as far as it can be tested on the CPU: arithmetic, shapes, and independence of consecutive batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, Pooling
from polytask.model.encoder import JoinedTables, Tables
from polytask.model.encoding import InputEncoder
from polytask.model.heads import Outputs
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import load
from polytask.model_store.versions import resolve
from polytask.service.backends.contract import Backend, DeviceLost
from polytask.service.backends.cuda import CudaBackend, move_to_device
from polytask.service.backends.forward import Forward
from polytask.service.backends.shape_buckets import Buckets
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.engine.golden_check import TOLERANCES, agree, check_goldens
from tests.model.support.networks import build, randomise_conditioning
from tests.service.support.recording import CpuRecorder
from tests.service.support.serving import serving
from tests.support import exported, tiny

CPU = torch.device("cpu")
BF16_BOUND = 0.03
"""Difference of a logit in bfloat16 from float32, as a share of the spread of logits."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain": {
        "conditional_alignment": False,
        "conditional_attention": (),
        "conditional_layer_norm": (),
        "conditional_bottleneck": (),
    },
    "pooled by tasks": {"conditional_pooling": True, "film_rank": 4, "task_size": 12},
    "pairs": {"pooling": Pooling.PAIRS},
    "released base": {
        "pooling": Pooling.CLS,
        "layer_norm_form": LayerNormForm.SCALE,
        "bottleneck_form": BottleneckForm.ADAPTER,
    },
    "paper large": {
        "alignment_form": AlignmentForm.MATRIX,
        "layer_norm_form": LayerNormForm.BIAS_IN_SCALE,
        "bottleneck_form": BottleneckForm.LADDER,
    },
    "distances": {"num_segments": 0, "relative_attention_buckets": 32},
    "narrow embeddings": {"embedding_size": 12},
}
BUCKETS = Buckets.up_to(tiny.config().max_length, 8, 256)


def network_of(layout: str) -> Network:
    """A network of that layout with effective conditioning and tasks of all kinds."""
    return randomise_conditioning(build(replace(tiny.config(), **LAYOUTS[layout]), tiny.tasks()), std=0.15)


def float32(buckets: Buckets | None = None, recorder: CpuRecorder | None = None) -> CudaBackend:
    """The tiny network in float32, so that only an error makes a difference."""
    return CudaBackend(tiny.network(), CPU, buckets, torch.float32, recorder)


@cache
def replaying() -> tuple[CudaBackend, CpuRecorder]:
    """One backend with graphs of all buckets for all examples: earlier batches must not affect later ones."""
    recorder = CpuRecorder()
    return float32(BUCKETS, recorder), recorder


def assert_same(found: Outputs, expected: Outputs, lengths: Tensor, atol: float = 1e-5) -> None:
    """All rows have the same logits, and token-level ones those of their real tokens."""
    torch.testing.assert_close(found.sentence, expected.sentence, atol=atol, rtol=0)
    assert (found.token is None) == (expected.token is None)
    if found.token is not None and expected.token is not None:
        assert found.token.shape == expected.token.shape
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(found.token[row, :length], expected.token[row, :length], atol=atol, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bfloat16_is_near_float32(layout: str) -> None:
    """In every layout the logits of all tasks are within the stated bound, and have more digits than bfloat16."""
    batch = exported.batch([11, 5, 30, 8, 8, 17, 25, 64])
    expected = TorchBackend(network_of(layout)).run(batch)
    backend: Backend = CudaBackend(network_of(layout), CPU)
    assert backend.precision == "bfloat16"
    found = backend.run(batch)
    assert found.token is not None
    assert expected.token is not None
    assert_same(found, expected, batch.lengths, BF16_BOUND * float(expected.token.std() + expected.sentence.std()))
    assert found.sentence.dtype == found.token.dtype == torch.float32
    assert (found.sentence != found.sentence.bfloat16()).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weights_of_the_encoder_are_converted_once(layout: str) -> None:
    """Encoder and its tables are in bfloat16, heads and pooling in float32; the tables were computed in float32."""
    network = network_of(layout)
    tables = move_to_device(network, CPU, torch.bfloat16)
    assert {parameter.dtype for parameter in network.encoder.parameters()} == {torch.bfloat16}
    rest = [parameter.dtype for name, parameter in network.named_parameters() if not name.startswith("encoder.")]
    assert set(rest) == {torch.float32}
    with torch.no_grad():
        exact = network_of(layout).condition()
    assert tables.pooling is None or tables.pooling.dtype == torch.float32
    for exact_table, table in zip(listed(exact), listed(tables), strict=True):
        assert torch.equal(exact_table.to(table.dtype), table)


def listed(tables: Tables) -> list[Tensor]:
    """All tables, in a fixed order."""
    found: list[Tensor] = []

    def note(table: Tensor) -> Tensor:
        found.append(table)
        return table

    tables.map(note)
    return found


def test_the_embedded_checkpoint_has_its_golden_answers_in_bfloat16() -> None:
    """In bfloat16 on the CPU the golden answers are within the service's tolerance."""
    checkpoint = load(resolve(DEFAULT_STORE, "demo"))
    encoder, tasks = InputEncoder(checkpoint.tokenizer), checkpoint.manifest.tasks
    forward = Forward(CudaBackend(checkpoint.network, CPU), tasks, encoder.pad_id)
    check_goldens(forward, tasks, encoder, checkpoint.manifest.goldens, TOLERANCES["bfloat16"])


class _OnDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Refuses operations whose results lie on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            assert not isinstance(tensor, Tensor) or tensor.device.type == "meta", f"{func} works on the CPU"
        return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forward_never_asks_the_device(layout: str) -> None:
    """On tensors without values a forward succeeds, and creates no tensor on the CPU."""
    network = network_of(layout)
    tables = JoinedTables(move_to_device(network, torch.device("meta"), torch.bfloat16))
    batch = exported.batch([11, 5, 30]).to(torch.device("meta"))
    with torch.no_grad(), _OnDevice():  # type: ignore[no-untyped-call]
        outputs = network(batch, tables)
    assert outputs.sentence.shape == (3, len(network.heads.sentence.bias))


@settings(max_examples=60)
@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(1, 64), min_size=1, max_size=10), st.booleans(), st.integers(0, 99)),
        min_size=1,
        max_size=4,
    ),
    overlapping=st.booleans(),
)
def test_replays_give_what_the_network_gives(batches: list[tuple[list[int], bool, int]], overlapping: bool) -> None:
    """Replays give the network's logits for any sequence of batches, also if later ones are started before the first is awaited."""
    backend, recorder = replaying()
    plain = TorchBackend(tiny.network())
    asked = [replace(exported.batch(lengths, seed=seed), token_level=level) for lengths, level, seed in batches]
    before = recorder.replays
    found = [backend.start(batch) if overlapping else _after(backend.run(batch)) for batch in asked]
    for batch, outputs in zip(asked, found, strict=True):
        assert_same(outputs(), plain.run(batch), batch.lengths)
    assert recorder.replays - before == sum(BUCKETS.fitting(*batch.input_ids.shape) is not None for batch in asked)


def _after(outputs: Outputs) -> Callable[[], Outputs]:
    return lambda: outputs


def test_all_buckets_are_recorded() -> None:
    """All buckets are recorded; none is replayed if replays save no time or are wrong."""
    recorder = CpuRecorder()
    float32(BUCKETS, recorder)
    assert recorder.recordings == len(BUCKETS.all)
    for other in (CpuRecorder(pays=False), CpuRecorder(wrong=True)):
        backend = float32(BUCKETS, other)
        before = other.replays
        backend.run(exported.batch([5]))
        assert other.replays == before


@pytest.mark.parametrize("fails_at", [0, 5])
def test_what_cannot_be_recorded_is_run_without(fails_at: int, caplog: pytest.LogCaptureFixture) -> None:
    """A failed recording is a warning; buckets that were recorded before it, the largest and then the smallest, are replayed."""
    recorder = CpuRecorder(fails_at=fails_at)
    with caplog.at_level(logging.WARNING):
        backend = float32(BUCKETS, recorder)
    assert "cannot be recorded; no more CUDA graphs" in caplog.text
    assert recorder.recordings == fails_at
    before, plain = recorder.replays, TorchBackend(tiny.network())
    for lengths in ([5], [64] * 3, [32] * 8):
        batch = exported.batch(lengths)
        assert_same(backend.run(batch), plain.run(batch), batch.lengths)
    assert recorder.replays - before == (2 if fails_at else 0)


def test_graphs_take_a_part_of_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Recording stops when a quarter of the free memory is used, and a warning names the size."""
    recorder = CpuRecorder(taken=100)
    with caplog.at_level(logging.INFO):
        float32(BUCKETS, recorder)
    assert recorder.recordings == 3
    assert "tokens and more would take too much memory" in caplog.text
    assert f"3 of {len(BUCKETS.all)} CUDA graphs are kept" in caplog.text


def test_a_network_without_token_level_tasks_has_graphs() -> None:
    """The outputs of a network without token-level tasks have no token logits, also with graphs."""
    tasks = (Task("mood", Kind.CLASSIFICATION, 32, labels=("good", "bad")),)
    backend = CudaBackend(tiny.network(0, tasks), CPU, BUCKETS, torch.float32, CpuRecorder())
    batch = replace(exported.batch([5, 9]), task_ids=torch.tensor([0, 0]), token_level=False)
    assert_same(backend.run(batch), TorchBackend(tiny.network(0, tasks)).run(batch), batch.lengths)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("no"), MemoryError),
        (torch.AcceleratorError("no", 700), DeviceLost),
        (ValueError(), ValueError),
    ],
)
def test_failures_are_the_same_for_all_backends(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little memory and a lost device are distinguished from other failures."""
    backend = float32()

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Network, "forward", fail)
    with pytest.raises(expected):
        backend.start(exported.batch([5]))


def test_a_service_answers_with_replays() -> None:
    """Concurrent requests of all tasks, with calibration and overlapping batches, get the answers of the CPU backend."""

    async def answers(backend: Backend) -> list[Any]:
        async with serving(backend, token_budget=0, batch_ms=2) as service:
            calls = [service.predict("mood", *texts) for texts in (["cat"], ["the cat sat", "bad"])]
            calls += [service.predict("entities", "The cat sat in Paris.") for _ in range(20)]
            responses = await asyncio.gather(*calls)
        return [response.raise_for_status().json()["answers"] for response in responses]

    recorder = CpuRecorder()
    found = asyncio.run(answers(float32(BUCKETS, recorder)))
    assert recorder.replays > 0
    for mine, theirs in zip(found, asyncio.run(answers(TorchBackend(tiny.network()))), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert agree(one, other, 1e-4)
