"""Dropout that is cheap on a CPU: one draw of 64 random bits decides for eight elements."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Dropout):
    """As `nn.Dropout`, but on a CPU the probability is rounded to a 256th, and kept elements are scaled to match."""

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * 256)
        if not self.training or states.device.type != "cpu" or dropped in {0, 256}:
            return functional.dropout(states, self.p, self.training)
        draws = torch.empty(-(-states.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: states.numel()].view(states.shape) >= dropped
        return states * kept.to(states.dtype).mul_(256 / (256 - dropped))
