"""TensorBoard writer: losses, shares and metrics of a run by task, over the number of examples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from polytask.training.runs.event_log import Event


class TensorBoardWriter:
    """Writes events as scalars. Raises ImportError without the package tensorboard."""

    def __init__(self, folder: Path, examples: int = 0) -> None:
        """`examples`: the number at which the run resumes; TensorBoard hides earlier records beyond it."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional, and slow to import

        self._writer = SummaryWriter(folder, purge_step=examples + 1)

    def add(self, event: Event) -> None:
        """Writes the numbers of an event, if it has any."""
        for name, value in scalars(event):
            self._writer.add_scalar(name, value, event["examples"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


def scalars(event: Event) -> Iterator[tuple[str, float]]:
    """The numbers of an event with their names in TensorBoard."""
    if event["event"] == "progress":
        yield "loss", event["loss"]
        yield "learning_rate", event["learning_rate"]
        total = sum(values["examples"] for values in event["tasks"].values())
        for name, values in event["tasks"].items():
            yield f"share/{name}", values["examples"] / total
            if values["loss"] is not None:
                yield f"loss/{name}", values["loss"]
    elif event["event"] in {"evaluation", "selection"}:
        split = "selection/" if event["event"] == "selection" else ""
        for name, values in event["scores"].items():
            for metric, value in values.items():
                yield f"{split}{metric}/{name}", value
