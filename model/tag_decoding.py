"""Tag decoding: the best sequence of tags for the words of a text, as a whole rather than word by word.

Shapes: N words, K tags of the task.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from polytask.model.tasks import Task

TransitionScores = NDArray[np.float64]
"""[K + 1, K]: what is added to the logit of a tag behind each tag; the first row is of the first word."""


def decode_tags(task: Task, logits_NK: NDArray[np.float32]) -> list[int]:
    """The tags, as indices, whose logits and transition scores have the highest sum (Viterbi's algorithm).

    BIO tags are always a valid sequence: an `I-x` stands behind a `B-x` or `I-x` only, unless there is no `B-x`.
    """
    likeliest = logits_NK.argmax(axis=-1)
    if not len(likeliest):
        return []
    scores = transition_scores(task.labels, task.transitions, bio=task.bio)
    # Without learnt scores the likeliest tags are the best sequence if it is a valid one.
    if not task.transitions and np.isfinite(scores[np.append(0, likeliest[:-1] + 1), likeliest]).all():
        return [int(tag) for tag in likeliest]
    return _best_path(logits_NK.astype(np.float64), scores)


@lru_cache(maxsize=256)
def transition_scores(
    labels: tuple[str, ...], learnt: tuple[tuple[float, ...], ...] = (), *, bio: bool
) -> TransitionScores:
    """The learnt scores, or zeros; minus infinity for what no valid sequence has. Every tag has a valid successor."""
    scores = np.array(learnt) if learnt else np.zeros((len(labels) + 1, len(labels)))
    if bio:
        for tag, label in enumerate(labels):
            own = {f"B-{label[2:]}", label}
            if label != "O" and label[0] == "I" and own.issubset(labels):
                scores[[0, *(row for row, before in enumerate(labels, start=1) if before not in own)], tag] = -np.inf
    scores.flags.writeable = False
    return scores


def _best_path(logits_NK: NDArray[np.float64], scores: TransitionScores) -> list[int]:
    into_KK = np.ascontiguousarray(scores[1:].T)  # [tag, tag before]
    best_NK = logits_NK.copy()  # becomes the score of the best path that ends with a tag, for each word
    best_NK[0] += scores[0]
    for word in range(1, len(best_NK)):
        best_NK[word] += (into_KK + best_NK[word - 1]).max(axis=1)
    path = [int(best_NK[-1].argmax())]
    for best_before_K in best_NK[-2::-1]:
        path.append(int((into_KK[path[-1]] + best_before_K).argmax()))
    return path[::-1]
