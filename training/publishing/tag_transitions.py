"""Transitions between tags: learnt on examples that the network was not trained on, and kept only where they pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polytask.model.answers import word_runs
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tag_decoding import decode_tags, transition_scores
from polytask.model.tasks import Task
from polytask.training.data.examples import Example, encode_examples
from polytask.training.evaluation.evaluate import row_logits

_DECIMALS = 3

PRIOR = 10.0
"""Precision of the normal prior around 0, which leaves tags that are rare to the network."""

_MOST_STEPS = 100


class TaggedWords(NamedTuple):
    """The logits of the words of a text, [N, K], and their right tags."""

    logits: NDArray[np.float32]
    tags: tuple[int, ...]


def learn_transitions(network: Network, encoder: InputEncoder, task_id: int, examples: Sequence[Example]) -> Task:
    """The tagging task with transition scores learnt on `examples`, or without any if they bring no more than noise."""
    task = replace(network.tasks[task_id], transitions=())
    rows = [(each.encodings[0], each.target) for each in encode_examples(encoder, task, task_id, examples)]
    logits = row_logits(network, [row for row, _ in rows], task_id, encoder.pad_id)
    texts = [
        TaggedWords(row_logits[list(row.positions)], tags) for row_logits, (row, tags) in zip(logits, rows, strict=True)
    ]
    return paying_transitions(task, texts)


def paying_transitions(task: Task, texts: Sequence[TaggedWords]) -> Task:
    """The task with `fit_transitions` of the texts if they raise F1 by more than its standard error, else as it is.

    Each half of the texts is decoded with the scores of the other half.
    """
    # Halves, not turns: neighbours in a file are often of one document.
    halves = texts[: len(texts) // 2], texts[len(texts) // 2 :]
    if not halves[0]:
        return task
    learnt = [
        _matches(fitted, text)
        for fitted, part in (
            (fit_transitions(task, halves[1]), halves[0]),
            (fit_transitions(task, halves[0]), halves[1]),
        )
        for text in part
    ]
    gain, noise = _gain(np.array(learnt), np.array([_matches(task, text) for text in texts]))
    return fit_transitions(task, texts) if gain > noise else task


def fit_transitions(task: Task, texts: Sequence[TaggedWords]) -> Task:
    """The task with the transition scores that make the right tags of the texts likeliest, given the logits.

    The conditional likelihood is that of a linear-chain conditional random field (Lafferty et al., ICML 2001) over the
    valid sequences, times a normal prior. It is concave: L-BFGS finds its maximum.
    """
    num_tags = len(task.labels)
    valid = torch.from_numpy(np.isfinite(transition_scores(task.labels, bio=task.bio)))
    emissions_NTK, num_active = _emissions(texts)
    right = torch.zeros(num_tags + 1, num_tags, dtype=torch.float64)
    for text in texts:
        np.add.at(right.numpy(), ([0, *(tag + 1 for tag in text.tags[:-1])], list(text.tags)), 1)
    scores = torch.zeros_like(right, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        factors = scores.exp() * valid
        states, log_sum = emissions_NTK[0] * factors[0], torch.zeros((), dtype=torch.float64)
        for number, active in enumerate(num_active):
            if number:
                states = (states[:active] @ factors[1:]) * emissions_NTK[number, :active]
            total = states.sum(dim=1, keepdim=True)
            log_sum = log_sum + total.log().sum()
            states = states / total
        value = log_sum - (right * scores).sum() + PRIOR / 2 * scores.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    rounded = np.round(scores.detach().numpy(), _DECIMALS) + 0.0  # no negative zeros
    return replace(task, transitions=tuple(map(tuple, rounded.tolist())))


def _emissions(texts: Sequence[TaggedWords]) -> tuple[Tensor, list[int]]:
    """The probability of each tag of each word, [N, T, K], longest text first; how many texts have an Nth word."""
    by_length = sorted(texts, key=lambda text: len(text.tags), reverse=True)
    lengths = np.array([len(text.tags) for text in by_length])
    emissions = torch.zeros(int(lengths[0]), len(texts), by_length[0].logits.shape[1], dtype=torch.float64)
    for column, text in enumerate(by_length):
        emissions[: len(text.tags), column] = torch.from_numpy(text.logits).double().softmax(dim=-1)
    return emissions, [int((lengths > number).sum()) for number in range(len(emissions))]


def _matches(task: Task, text: TaggedWords) -> tuple[int, int]:
    """Twice the number of right runs, and the number of all that are found or right; their quotient is F1.

    Plain tags are runs of a word, and their F1 is the accuracy.
    """
    found, right = (
        set(word_runs([task.labels[tag] for tag in tags], bio=task.bio))
        for tags in (decode_tags(task, text.logits), text.tags)
    )
    return 2 * len(found & right), len(found) + len(right)


def _gain(new: NDArray[np.int64], old: NDArray[np.int64]) -> tuple[float, float]:
    """How much the quotient of sums rises from `old` to `new`, [texts, 2] each, and the standard error of that.

    The error is by linearisation of the quotient (Cochran, "Sampling Techniques", 1977, section 6.3), in pairs of texts.
    """
    scores, influences = [], []
    for counts in (new, old):
        part, whole = counts.sum(axis=0)
        scores.append(part / max(whole, 1))
        influences.append((counts[:, 0] - scores[-1] * counts[:, 1]) / max(whole, 1))
    return float(scores[0] - scores[1]), float(np.sqrt(np.square(influences[0] - influences[1]).sum()))
