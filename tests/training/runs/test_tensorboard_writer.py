"""TensorBoard writer: its files, read back with TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from polytask.training.runs.event_log import Event
from polytask.training.runs.tensorboard_writer import TensorBoardWriter, scalars


def _progress(examples: int, loss: float) -> Event:
    tasks = {"mood": {"examples": 3, "loss": loss}, "topics": {"examples": 1, "loss": None}}
    return {"event": "progress", "examples": examples, "loss": loss, "learning_rate": 0.5, "tasks": tasks}


def _read(folder: Path, name: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(name)]


def test_every_number_of_an_event_has_a_name() -> None:
    """Losses, shares and metrics are named by task, and a task without examples has no loss."""
    assert dict(scalars(_progress(10, 0.25))) == {
        "loss": 0.25,
        "learning_rate": 0.5,
        "share/mood": 0.75,
        "share/topics": 0.25,
        "loss/mood": 0.25,
    }
    evaluation = {"event": "evaluation", "examples": 9, "scores": {"mood": {"accuracy": 0.5, "f1": 0.25}}}
    assert dict(scalars(evaluation)) == {"accuracy/mood": 0.5, "f1/mood": 0.25}
    assert dict(scalars(evaluation | {"event": "selection"})) == {
        "selection/accuracy/mood": 0.5,
        "selection/f1/mood": 0.25,
    }
    assert not list(scalars({"event": "finish", "examples": 10}))


def test_tensorboard_shows_the_events_of_a_run(tmp_path: Path) -> None:
    """Scalars can be read while the writer is open, and a resumed run hides records beyond its start."""
    writer = TensorBoardWriter(tmp_path)
    for examples in (10, 20, 30):
        writer.add(_progress(examples, examples / 16))
    assert _read(tmp_path, "loss/mood") == [(10, 0.625), (20, 1.25), (30, 1.875)]
    writer.close()
    again = TensorBoardWriter(tmp_path, 20)
    again.add(_progress(40, 4.0))
    again.close()
    assert _read(tmp_path, "loss/mood") == [(10, 0.625), (20, 1.25), (40, 4.0)]
