"""The events of a run for TensorBoard: losses, shares and metrics by task, over the examples seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from polytask.training.runs.event_log import Event


class TensorBoardWriter:
    """Writes events as scalars. Needs the package tensorboard: raises ImportError without it."""

    def __init__(self, folder: Path, examples: int = 0) -> None:
        """`examples`: those that the run has had when it goes on; what the folder has beyond them is not shown."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional, and slow to import

        self._writer = SummaryWriter(folder, purge_step=examples + 1)

    def add(self, event: Event) -> None:
        """Writes an event; those that have no numbers are left out."""
        for name, value in scalars(event):
            self._writer.add_scalar(name, value, event["examples"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def scalars(event: Event) -> Iterator[tuple[str, float]]:
    """The numbers of an event, each with the name that it has in TensorBoard."""
    if event["event"] == "progress":
        yield "loss", event["loss"]
        yield "learning_rate", event["learning_rate"]
        total = sum(own["examples"] for own in event["tasks"].values())
        for name, own in event["tasks"].items():
            yield f"share/{name}", own["examples"] / total
            if own["loss"] is not None:
                yield f"loss/{name}", own["loss"]
    elif event["event"] == "evaluation":
        for name, own in event["scores"].items():
            for metric, value in own.items():
                yield f"{metric}/{name}", value
