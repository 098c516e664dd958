"""Lower states: what a fixed trunk computes in front of its first conditioned layer, once for each row of a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model.network import Network

_MOST_BYTES = 2**30


class LowerStates:
    """The token states of rows in front of the first conditioned layer, which no tuning changes.

    They are kept in float16, up to `most_bytes` in all; those that find no room are computed again each time.
    """

    def __init__(self, network: Network, pad_id: int, most_bytes: int = _MOST_BYTES) -> None:
        self._network, self._pad_id = network, pad_id
        # In front of layer 0 there are only the embeddings, which are read as fast as kept states.
        self._room = most_bytes if network.encoder.first_conditioned_layer else 0
        # By identity, as hashing a row's tokens takes time; the row is kept as well, so that its id stays its own.
        self._kept: dict[int, tuple[Encoding, Tensor]] = {}

    @torch.no_grad()
    def of(self, rows: Sequence[Encoding]) -> Tensor:
        """The states of the rows, padded to the longest: [B, L, D]."""
        missing = [row for row in rows if id(row) not in self._kept]
        computed = dict(zip(map(id, missing), self._compute(missing), strict=True)) if missing else {}
        states = [computed[id(row)] if id(row) in computed else self._kept[id(row)][1].float() for row in rows]
        for row in missing:
            self._keep(row, computed[id(row)])
        return pad_sequence(states, batch_first=True)

    def _compute(self, rows: Sequence[Encoding]) -> list[Tensor]:
        """The states of each row, [its length, D]."""
        batch = collate(rows, [0] * len(rows), token_level=False, pad_id=self._pad_id)
        states = self._network.lower(batch.to(next(self._network.parameters()).device))
        return [row_states[: len(row)] for row, row_states in zip(rows, states, strict=True)]

    def _keep(self, row: Encoding, states: Tensor) -> None:
        kept = states.half()
        if kept.nbytes <= self._room:
            self._room -= kept.nbytes
            self._kept[id(row)] = (row, kept)
