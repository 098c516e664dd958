"""Kernels: attention and dropout, each by the fastest way for the device.

Shapes: B rows, H heads, L tokens, d size of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def attend(query_BHLd: Tensor, key_BHLd: Tensor, value_BHLd: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """softmax(q k / sqrt(d) + mask) v: [B, H, L, d]. `mask` broadcasts to [B, H, L, L]; weights get `dropout`."""
    mask = mask.to(query_BHLd.dtype)
    if query_BHLd.device.type == "cpu" and torch.is_grad_enabled():
        # The fused kernel's backward is slow on a CPU: benchmarks/quality/kernels.py.
        scores_BHLL = torch.matmul(query_BHLd * query_BHLd.shape[-1] ** -0.5, key_BHLd.transpose(-1, -2)) + mask
        return torch.matmul(functional.dropout(scores_BHLL.softmax(-1), dropout), value_BHLd)
    return functional.scaled_dot_product_attention(query_BHLd, key_BHLd, value_BHLd, attn_mask=mask, dropout_p=dropout)


class Dropout(nn.Dropout):
    """As `nn.Dropout`, but on a CPU one draw of 64 random bits decides for eight elements.

    There the probability is rounded to a 256th, and kept elements are scaled to match.
    """

    def forward(self, states: Tensor) -> Tensor:
        dropped = round(self.p * 256)
        if not self.training or states.device.type != "cpu" or dropped in {0, 256}:
            return functional.dropout(states, self.p, self.training)
        draws = torch.empty(-(-states.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = draws.view(torch.uint8)[: states.numel()].view(states.shape) >= dropped
        return states * kept.to(states.dtype).mul_(256 / (256 - dropped))
