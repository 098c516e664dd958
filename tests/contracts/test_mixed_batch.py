"""Mixed batches: a row's logits do not depend on the tasks, lengths and order of the other rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model.network import Network
from tests.model.support.networks import minilm, randomise_conditioning, run
from tests.support import tiny

# On logits in float32; what remains is the order of summation, which changes with the shape of a batch.
TOLERANCE = 1e-4

# A task, a length in percent of what the task allows, and a seed for the tokens.
Row = tuple[int, int, int]
ROWS = st.lists(
    st.tuples(st.integers(0, len(tiny.tasks()) - 1), st.integers(0, 100), st.integers(0, 2**31)), min_size=1, max_size=8
)


@cache
def _tiny() -> Network:
    return tiny.network()


@cache
def _minilm() -> Network:
    network = randomise_conditioning(minilm(tiny.tasks(), range(6)), std=0.1)
    torch.nn.init.normal_(network.heads.sentence.weight, std=0.1)
    torch.nn.init.normal_(network.heads.token.weight, std=0.1)
    return network


def _encoding(network: Network, row: Row) -> Encoding:
    task_id, percent, seed = row
    length = max(2, network.tasks[task_id].max_length * percent // 100)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(network.config.vocab_size, (length,), generator=generator).tolist()
    begin = length // 2 if network.tasks[task_id].pair else length
    return Encoding(tuple(tokens), (0,) * begin + (1,) * (length - begin))


def _logits(network: Network, rows: Sequence[Row]) -> list[Tensor]:
    """The logits that each row's task reads: its own slice, for its own tokens."""
    encodings = [_encoding(network, row) for row in rows]
    task_ids = [task_id for task_id, _, _ in rows]
    token_level = any(network.tasks[task_id].token_level for task_id in task_ids)
    outputs = run(network, collate(encodings, task_ids, token_level=token_level))
    logits = []
    for index, (task_id, encoding) in enumerate(zip(task_ids, encodings, strict=True)):
        columns = network.output_slices[task_id]
        if network.tasks[task_id].token_level:
            assert outputs.token is not None
            logits.append(outputs.token[index, : len(encoding), columns])
        else:
            logits.append(outputs.sentence[index, columns])
    return logits


def _check(network: Network, rows: list[Row]) -> None:
    for row, in_batch in zip(rows, _logits(network, rows), strict=True):
        (alone,) = _logits(network, [row])
        assert in_batch.isfinite().all()
        torch.testing.assert_close(in_batch, alone, atol=TOLERANCE, rtol=0)


@given(ROWS)
def test_a_row_in_any_batch_is_the_row_alone(rows: list[Row]) -> None:
    """A row in a batch of any tasks, lengths and order has the logits that it has alone."""
    _check(_tiny(), rows)


@settings(deadline=None, max_examples=12)
@given(ROWS)
def test_a_row_in_any_batch_is_the_row_alone_on_the_real_backbone(rows: list[Row]) -> None:
    """Rows of all-MiniLM-L6-v2, with every kind of conditioning in every layer, have the logits in a batch that they have alone."""
    _check(_minilm(), rows)


def test_the_rows_differ_enough_for_the_tolerance_to_mean_something() -> None:
    """Another task or text changes the logits by at least a hundred times the tolerance, on both networks."""
    for network in (_tiny(), _minilm()):
        text_logits, other_logits = _logits(network, [(0, 50, 1), (0, 50, 2)])
        assert (text_logits - other_logits).abs().max() > 100 * TOLERANCE
        task_ids, row = [0, 1, 2, 3, 4, 5, 6], _encoding(network, (0, 50, 1))
        under_each_task = run(network, collate([row] * 7, task_ids, token_level=False)).sentence
        assert torch.pdist(under_each_task).min() > 100 * TOLERANCE
