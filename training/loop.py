"""The training run: batches in, a trained network out, with a live display of how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from model.network import Network
from training.config import Recipe
from training.examples import EncodedExample
from training.losses import batch_examples, example_losses
from training.optimizer import make_optimizer, set_learning_rate
from training.sampling import Sampler, training_batches
from training.uncertainty import score_examples

_SMOOTHING = 0.98


class NonFiniteLossError(Exception):
    """The loss stopped being a number; the message names the tasks of the batch."""


def train(
    network: Network,
    examples: Sequence[Sequence[EncodedExample]],
    recipe: Recipe,
    pad_id: int,
    console: Console,
    evaluate: Callable[[], None],
) -> None:
    """Trains `network` in place on `recipe.length.examples` examples; `examples[t]` are those of task t.

    The same network, examples, recipe and machine give the same weights. `evaluate` is called every
    `recipe.length.evaluate_every` examples. Raises NonFiniteLossError.
    """
    torch.manual_seed(recipe.seed)
    length = recipe.length
    optimizer = make_optimizer(network, recipe.optimizer)
    sampler = Sampler(examples, recipe.sampler, recipe.seed)
    batches = training_batches(
        sampler, recipe.sampler, length, lambda found: score_examples(network, found, pad_id, length.batch_rows)
    )
    seen, smooth = 0, SmoothLoss(len(network.tasks))
    with _progress(console) as progress:
        bar = progress.add_task("training", total=length.examples, losses="")
        while seen < length.examples:
            batch = next(batches)
            set_learning_rate(optimizer, seen / length.examples, recipe.optimizer.warmup)
            losses = step(network, optimizer, batch, recipe, pad_id)
            smooth.add(batch, losses)
            before, seen = seen, seen + len(batch)
            progress.update(bar, completed=min(seen, length.examples), losses=smooth.text(network))
            if length.evaluate_every and before // length.evaluate_every < seen // length.evaluate_every:
                console.print(f"{seen} examples: {smooth.text(network)}")
                evaluate()


def step(
    network: Network, optimizer: torch.optim.Optimizer, examples: Sequence[EncodedExample], recipe: Recipe, pad_id: int
) -> Tensor:
    """One update on one batch. Returns the loss of each example, [examples], before their tasks' weights."""
    network.train()
    device = next(network.parameters()).device
    batch = batch_examples(examples, network.tasks, pad_id)
    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.length.bf16):
        outputs = network(batch.batch.to(device), network.condition())
    losses = example_losses(network, outputs, batch)
    weights = torch.tensor([recipe.tasks[example.task_id].weight for example in examples], device=device)
    loss = (losses * weights).mean()
    if not torch.isfinite(loss):
        names = sorted({network.tasks[example.task_id].name for example in examples})
        raise NonFiniteLossError(f"the loss is {loss.item()} on a batch of {', '.join(names)}; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    trainable = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trainable, recipe.optimizer.clip_norm)
    optimizer.step()
    return losses.detach()


class SmoothLoss:
    """A running mean of each task's loss, for the eye."""

    def __init__(self, num_tasks: int) -> None:
        self._means: list[float | None] = [None] * num_tasks

    def add(self, examples: Sequence[EncodedExample], losses: Tensor) -> None:
        """Counts in the loss of each example of a batch."""
        for example, loss in zip(examples, losses.tolist(), strict=True):
            mean = self._means[example.task_id]
            self._means[example.task_id] = loss if mean is None else _SMOOTHING * mean + (1 - _SMOOTHING) * loss

    def text(self, network: Network) -> str:
        """The means by task name, in one line."""
        known = zip(network.tasks, self._means, strict=True)
        return " ".join(f"{task.name} {mean:.2f}" for task, mean in known if mean is not None)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[losses]}"),
        console=console,
    )
