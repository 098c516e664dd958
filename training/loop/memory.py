"""Memory of training: one example with far more rows than a batch, such as a ranking of hundreds of candidates."""

from __future__ import annotations

from typing import cast

import torch
from torch.utils.checkpoint import checkpoint

from polytask.model.batch import Batch
from polytask.model.encoder import Tables
from polytask.model.heads import Outputs
from polytask.model.network import Network


def run_in_pieces(network: Network, batch: Batch, tables: Tables, max_tokens: int) -> Outputs:
    """The network's outputs. More than `max_tokens` padded tokens are computed by pieces, once more for the gradients.

    So the states between layers take the memory of one piece (Chen et al., "Training Deep Nets with Sublinear Memory
    Cost", 2016). Batches are within the limit unless they are one example, so token-level rows never need it.
    """
    num_rows, length = batch.input_ids.shape
    rows = max(1, max_tokens // length)
    if num_rows <= rows or batch.token_level:
        return cast(Outputs, network(batch, tables))
    outputs = [
        checkpoint(lambda piece: network(piece, tables).sentence, batch.rows(start, start + rows), use_reentrant=False)
        for start in range(0, num_rows, rows)
    ]
    return Outputs(torch.cat(outputs), None)
