"""Calls of the API as steps, shared by the blocking and the async client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polytask_client.answers import (
    Prediction,
    TaskList,
    TasksPrediction,
    read_prediction,
    read_task_list,
    read_tasks_prediction,
)
from polytask_client.call_protocol import CallSteps, exchange
from polytask_client.errors import InvalidArgument, PolytaskError
from polytask_client.messages import (
    Input,
    Reply,
    Request,
    json_object,
    predict_request,
    predict_tasks_request,
    require_several,
)
from polytask_client.retries import Retries

_MAX_DEADLINE_S = 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Calls:
    """Every call of the API, with the settings of all calls. `deadline_s`: bound of a call with all its tries."""

    retries: Retries
    deadline_s: float

    def __post_init__(self) -> None:
        if not isinstance(self.deadline_s, int | float) or not 0 < self.deadline_s <= _MAX_DEADLINE_S:
            raise InvalidArgument(f"deadline_s must be more than 0, and at most a year, got {self.deadline_s!r}")

    def within(self, deadline_s: float | None) -> Calls:
        """The same calls with `deadline_s`, unless it is None."""
        return self if deadline_s is None else replace(self, deadline_s=deadline_s)

    def predict(
        self, task: str, inputs: Sequence[Input], options: Mapping[str, Any] | None, errors: str | None
    ) -> CallSteps[Prediction]:
        """One task's answers to the inputs."""
        require_several(inputs)
        inputs = list(inputs)
        reply = yield from self._exchange(predict_request(task, inputs, options, errors))
        return read_prediction(json_object(reply), len(inputs))

    def predict_tasks(
        self, tasks: Sequence[str], inputs: Sequence[Input], options: Mapping[str, Any] | None, errors: str | None
    ) -> CallSteps[TasksPrediction]:
        """Several tasks' answers to the same inputs."""
        require_several(inputs)
        inputs = list(inputs)
        reply = yield from self._exchange(predict_tasks_request(tasks, inputs, options, errors))
        return read_tasks_prediction(json_object(reply), len(inputs))

    def tasks(self) -> CallSteps[TaskList]:
        """The tasks of the service."""
        return read_task_list(json_object((yield from self._exchange(Request("/v1/tasks")))))

    def ready(self) -> CallSteps[bool]:
        """Whether the service is ready, by a single try."""
        try:
            yield from exchange(Request("/readyz"), Retries(max_tries=1), self.deadline_s)
        except PolytaskError:
            return False
        return True

    def _exchange(self, request: Request) -> CallSteps[Reply]:
        return exchange(request, self.retries, self.deadline_s)
