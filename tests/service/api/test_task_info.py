"""Task descriptions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from polytask.model.tasks import Task
from polytask.model_store.load import Checkpoint
from polytask.service.api.parsing import parse
from polytask.service.api.schemas import from_input
from polytask.service.api.task_info import describe_tasks, example_input, revision
from polytask.service.config.settings import Settings
from tests.service.support import checkpoints
from tests.support import tiny

SETTINGS = Settings(max_inputs=5, max_candidates=6, max_body_bytes=7, deadline_s=8)


def test_a_task_is_described_completely(checkpoint: Checkpoint) -> None:
    """A description has kind, labels, fields, limits, an example, and the metrics of the model."""
    found = describe_tasks(checkpoint.manifest, SETTINGS)
    assert list(found) == [task.name for task in tiny.tasks()]
    topics = found["topics"]
    assert topics.kind == "multilabel"
    assert topics.labels == ("cats", "cities", "food")
    assert topics.thresholds == {"cats": 0.5, "cities": 0.4, "food": 0.6}
    assert topics.value_range is None
    assert [field.name for field in topics.input_fields] == ["text"]
    assert topics.input_may_be_a_string
    assert (topics.limits.max_tokens, topics.limits.max_inputs, topics.limits.max_candidates) == (32, 5, 6)
    assert (topics.limits.max_body_bytes, topics.limits.max_deadline_s) == (7, 8)
    assert topics.example == {"inputs": ["A cat in Paris"]}
    assert (topics.metrics, topics.baselines) == (checkpoints.METRICS["topics"], checkpoints.BASELINES["topics"])
    assert found["closeness"].value_range == (0.0, 5.0)
    assert not found["closeness"].input_may_be_a_string
    assert found["entities"].labels == ("place", "animal"), "as in answers, not as in the training data"


@pytest.mark.parametrize("task", tiny.tasks(), ids=lambda task: task.name)
def test_without_goldens_an_example_is_made_up(task: Task, checkpoint: Checkpoint) -> None:
    """A checkpoint without golden examples and metrics still has an example for every kind of task."""
    bare = replace(checkpoint.manifest, goldens=(), metrics={}, baselines={})
    item = example_input(task, bare)
    body = b'{"inputs": [%s]}' % json.dumps(from_input(task, item)).encode()
    assert parse(task, body, max_inputs=1, max_candidates=4).items == [item]
    assert describe_tasks(bare, SETTINGS)[task.name].metrics == {}


def test_the_revision_is_name_and_version(checkpoint: Checkpoint) -> None:
    """The revision is written as NAME/VERSION, like the path in the store."""
    assert revision(checkpoint.manifest) == "tiny/1"
