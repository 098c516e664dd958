"""Forward: rows to their own logits, by way of a padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from polytask.model.answers import Logits
from polytask.model.batch import collate
from polytask.model.encoding import Encoding
from polytask.model.heads import Outputs, output_slices
from polytask.model.tasks import Task
from polytask.service.backends.contract import Backend

Run = Callable[[Sequence[int], Sequence[Encoding]], list[Logits]]
"""Task ids and encodings of rows to their own logits, as `Forward` computes them."""


class Forward:
    """Pads rows into a batch, runs it, and cuts each row's logits out of the outputs of all heads."""

    def __init__(self, backend: Backend, tasks: Sequence[Task], pad_id: int) -> None:
        self._backend = backend
        self._token_level = [task.token_level for task in tasks]
        self._slices = output_slices(tasks)
        self._pad_id = pad_id

    @property
    def num_streams(self) -> int:
        """As `Backend`."""
        return self._backend.num_streams

    @property
    def is_async(self) -> bool:
        """As `Backend`."""
        return self._backend.is_async

    def __call__(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> list[Logits]:
        """Per row, in order: [num_outputs] of its task, or [length, num_outputs] for a token-level task."""
        return self.start(task_ids, encodings)()

    def start(self, task_ids: Sequence[int], encodings: Sequence[Encoding]) -> Callable[[], list[Logits]]:
        """Starts the rows as a batch. The returned function waits for their logits."""
        token_level = any(self._token_level[task_id] for task_id in task_ids)
        batch = collate(encodings, task_ids, token_level=token_level, pad_id=self._pad_id)
        return partial(self._cut, self._backend.start(batch), task_ids, encodings)

    def _cut(
        self, outputs_of: Callable[[], Outputs], task_ids: Sequence[int], encodings: Sequence[Encoding]
    ) -> list[Logits]:
        outputs = outputs_of()
        sentence = outputs.sentence.numpy()
        token = None if outputs.token is None else outputs.token.numpy()
        logits: list[Logits] = []
        for row, (task_id, encoding) in enumerate(zip(task_ids, encodings, strict=True)):
            columns = self._slices[task_id]
            if self._token_level[task_id]:
                assert token is not None, "a token-level row was run without token logits"
                logits.append(token[row, : len(encoding), columns])
            else:
                logits.append(sentence[row, columns])
        return logits
