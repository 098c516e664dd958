"""The training run: batches in, a trained network out, with a live display of how far it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import Tensor

from model.network import Network
from training.config import Recipe
from training.display import Display
from training.examples import EncodedExample
from training.losses import batch_examples, example_losses
from training.optimizer import make_optimizer, set_learning_rate
from training.sampling import Sampler, training_batches
from training.uncertainty import score_examples


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

    On a CPU the same network, examples, recipe and machine give the same weights; a GPU adds up in any order. `evaluate` is called every
    `recipe.length.evaluate_every` examples. Raises NonFiniteLossError.
    """
    torch.manual_seed(recipe.seed)
    length = recipe.length
    optimizer = make_optimizer(network, recipe.optimizer)
    sampler = Sampler(examples, recipe.sampler, recipe.seed)
    batches = training_batches(
        sampler, recipe.sampler, length, lambda found: score_examples(network, found, pad_id, length.batch_rows)
    )
    seen = 0
    with Display(console, network.tasks, length.examples) as display:
        while seen < length.examples:
            batch = next(batches)
            set_learning_rate(optimizer, seen / length.examples, recipe.optimizer.warmup)
            losses = step(network, optimizer, batch, recipe, pad_id)
            display.advance(batch, losses)
            before, seen = seen, seen + len(batch)
            if length.evaluate_every and before // length.evaluate_every < seen // length.evaluate_every:
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
