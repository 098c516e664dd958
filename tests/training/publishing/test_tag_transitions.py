"""Learnt transitions: the maximum of their likelihood, and kept only where they pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from polytask.model.tag_decoding import decode_tags, transition_scores
from polytask.model.tasks import Kind, Task
from polytask.training.publishing.tag_transitions import (
    PRIOR,
    TaggedWords,
    fit_transitions,
    learn_transitions,
    paying_transitions,
)
from tests.training.conftest import Workshop

LABELS = ("O", "B-x", "I-x")
TASK = Task("task", Kind.TAGGING, 64, labels=LABELS)


def _texts(count: int, noise: float, seed: int = 0) -> list[TaggedWords]:
    """Texts in which every entity has two words; the network tells entities from other words, but not `B` from `I`."""
    generator = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        tags = [tag for piece in generator.integers(0, 2, 5) for tag in ((1, 2) if piece else (0,))]
        logits = np.where(np.eye(3)[tags][:, :1] > 0, (4.0, 0.0, 0.0), (0.0, 4.0, 4.0))
        texts.append(
            TaggedWords((logits + noise * generator.normal(size=logits.shape)).astype(np.float32), tuple(tags))
        )
    return texts


def _objective(task: Task, texts: Sequence[TaggedWords], learnt: torch.Tensor) -> torch.Tensor:
    """The log-likelihood of the right tags among all valid sequences, and of the prior."""
    valid = torch.from_numpy(transition_scores(task.labels, bio=task.bio).copy())
    total = -PRIOR / 2 * learnt.square().sum()
    for text in texts:
        logits = torch.from_numpy(text.logits).double()

        def score(tags: Sequence[int], scores: torch.Tensor, logits: torch.Tensor = logits) -> torch.Tensor:
            rows = [0, *(tag + 1 for tag in tags[:-1])]
            return logits[range(len(tags)), list(tags)].sum() + scores[rows, list(tags)].sum()

        every = torch.stack([score(tags, learnt + valid) for tags in product(range(3), repeat=len(text.tags))])
        total = total + score(text.tags, learnt) - torch.logsumexp(every, 0)
    return total


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    """At the learnt scores the gradient of the likelihood over all sequences, written out, is zero but for rounding."""
    texts = [TaggedWords(text.logits[:4], text.tags[:4]) for text in _texts(6, noise=1.0)]
    learnt = torch.tensor(fit_transitions(TASK, texts).transitions, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(_objective(TASK, texts, learnt), learnt)
    assert gradient.abs().max() < 0.05
    assert fit_transitions(TASK, texts).transitions == fit_transitions(TASK, list(reversed(texts))).transitions


def test_transitions_that_pay_are_kept() -> None:
    """What the network cannot tell but neighbours do is learnt: entities of unseen texts come out whole."""
    task = paying_transitions(TASK, _texts(60, noise=0.3))
    assert task == fit_transitions(TASK, _texts(60, noise=0.3))
    assert {round(score, 3) for row in task.transitions for score in row} == {
        s for row in task.transitions for s in row
    }
    unseen = _texts(20, noise=0.3, seed=1)
    right = [decode_tags(each, text.logits) == list(text.tags) for each in (TASK, task) for text in unseen]
    assert sum(right[20:]) > sum(right[:20]) + 5


@pytest.mark.parametrize("labels", [LABELS, ("noun", "verb", "other")])
def test_transitions_that_do_not_pay_are_not_kept(labels: tuple[str, ...]) -> None:
    """Where the network is always right, and of one text, there are none."""
    task = replace(TASK, labels=labels)
    sure = [TaggedWords(20 * np.eye(3, dtype=np.float32)[list(text.tags)], text.tags) for text in _texts(20, noise=0.0)]
    assert paying_transitions(task, sure) == task
    assert paying_transitions(task, _texts(1, noise=0.3)) == task


def test_they_are_learnt_from_a_networks_logits(workshop: Workshop) -> None:
    """Of a network and examples; without examples none are learnt, and old ones do not count."""
    (task_id,) = [number for number, each in enumerate(workshop.data) if each.task.kind is Kind.TAGGING]
    network, task = workshop.network(), workshop.data[task_id].task
    learnt = learn_transitions(network, workshop.encoder, task_id, workshop.data[task_id].train)
    assert replace(learnt, transitions=()) == task
    size = len(task.labels)
    network.tasks = tuple(
        replace(each, transitions=((0.0,) * size,) * (size + 1)) if number == task_id else each
        for number, each in enumerate(network.tasks)
    )
    assert learn_transitions(network, workshop.encoder, task_id, ()) == task
    assert learn_transitions(network, workshop.encoder, task_id, workshop.data[task_id].train) == learnt
