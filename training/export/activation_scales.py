"""Activation scales: how activations become 8-bit integers, chosen on a sample, and kept for later exports.

Activations are named by their place in the graph: the number of the activation among those that products with constant weights
read, in the graph's order. It is the same in the graphs of all versions that were tuned from one version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Values = NDArray[np.float32]

_NUM_FLOAT = "num_float_products"

_LARGE_SHARE = 6
"""One in this many features counts as large."""

_MIN_GAIN = 1.8
"""How many times smaller dividing must make the error, because it costs another pass over the activation."""


@dataclass(frozen=True, slots=True)
class Scales:
    """How an activation becomes u8: divided by `divisors` [I] (None: not divided) and by `scale`, plus `zero`.

    `offset`: the mean error of its products' outputs, one product after the other. `error`: the mean squared error, as a
    share of the outputs.
    """

    divisors: Values | None
    scale: float
    zero: int
    offset: Values
    error: float


@dataclass(frozen=True, slots=True)
class GraphScales:
    """The scales of a graph by the place of the activation.

    `folded`: divisors that `fold_scales` takes, also by place. `num_float_products`: the products of this many activations
    stay in float32, those with the largest errors; None for none, and not chosen yet.
    """

    scales: Mapping[int, Scales]
    folded: Mapping[int, Values]
    num_float_products: int | None = None


def write_scales(path: Path, scales: GraphScales) -> None:
    """Writes the scales as a safetensors file."""
    tensors: dict[str, NDArray[np.generic]] = {f"{place}.folded": divisors for place, divisors in scales.folded.items()}
    tensors[_NUM_FLOAT] = np.array([scales.num_float_products or 0], np.int64)
    for place, own in scales.scales.items():
        tensors[f"{place}.scale"] = np.array([own.scale, own.zero, own.error], np.float64)
        tensors[f"{place}.offset"] = own.offset
        if own.divisors is not None:
            tensors[f"{place}.divisors"] = own.divisors
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def read_scales(path: Path) -> GraphScales:
    """The scales that `write_scales` wrote."""
    tensors = load_file(path)
    scales = {}
    for name, tensor in tensors.items():
        place, _, part = name.partition(".")
        if part == "scale":
            scale, zero, error = tensor.tolist()
            offset, divisors = tensors[f"{place}.offset"], tensors.get(f"{place}.divisors")
            scales[int(place)] = Scales(divisors, scale, int(zero), offset, error)
    folded = {int(name.partition(".")[0]): tensor for name, tensor in tensors.items() if name.endswith(".folded")}
    return GraphScales(dict(sorted(scales.items())), folded, int(tensors[_NUM_FLOAT][0]))


def best_scales(sample: Values, weights: Values) -> Scales:
    """The scales that change `sample @ weights` least. Large features are divided only where it pays."""
    exact = sample @ weights
    plain = _measure(sample, None, weights, exact)
    largest = np.abs(sample).max(axis=0)
    limit = max(float(np.sort(largest)[-1 - len(largest) // _LARGE_SHARE]), 1e-6)
    divisors = np.maximum(1, largest / limit).astype(np.float32)
    divided = _measure(sample / divisors, divisors, weights * divisors[:, None], exact)
    return divided if divided.error * _MIN_GAIN < plain.error else plain


def _measure(sample: Values, divisors: Values | None, weights: Values, exact: Values) -> Scales:
    """The scales of a sample [N, I], and their error against `exact`, the float32 product with the weights.

    `sample` is divided by the `divisors` already, and `weights` multiplied by them.
    """
    low, high = min(float(sample.min()), 0.0), max(float(sample.max()), 1e-6)
    scale = np.float32((high - low) / 255)
    zero = round(-low / float(scale))
    levels = np.clip(np.round(sample / scale) + zero, 0, 255) - zero
    integers, steps = eight_bits(weights)
    errors = (levels * scale) @ (integers * steps) - exact
    offset = errors.mean(axis=0)
    # The error of each token is relative to its own outputs: layer norms follow, so large outputs must not dominate.
    sizes = (exact**2).mean(axis=1) + 1e-3 * (exact**2).mean() + 1e-12
    error = float((((errors - offset) ** 2).mean(axis=1) / sizes).mean())
    return Scales(divisors, float(scale), zero, offset, error)


def eight_bits(weights: Values) -> tuple[NDArray[np.int8], Values]:
    """Weights [I, O] as integers, and the step of each output [O]."""
    steps = np.maximum(np.abs(weights).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.clip(np.round(weights / steps), -127, 127).astype(np.int8), steps
