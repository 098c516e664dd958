"""The training run: batches in, a trained network out; between any two steps it can stop and later go on."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from polytask.model.network import Network
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.distributed import Group
from polytask.training.loop.interrupts import Interrupted, InterruptHandler
from polytask.training.loop.losses import batch_examples, example_losses, example_weights
from polytask.training.loop.optimizer import (
    WeightAverage,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)
from polytask.training.loop.sampling import BatchSampler
from polytask.training.loop.uncertainty import Entropy, batch_entropies, example_entropies
from polytask.training.recipes.schema import Recipe
from polytask.training.runs.checkpoints import (
    RunError,
    Snapshot,
    random_states,
    restore_random_states,
    write_checkpoint,
    write_snapshot,
)
from polytask.training.runs.run_logger import RunLogger, Step

FAILED = "failed.safetensors"
_MOST_NAMED = 5
_TEXT_LENGTH = 80


class NonFiniteLossError(Exception):
    """A loss or a gradient stopped being a number; the message names tasks and records, and says what to try."""


class Training:
    """A run between two steps: everything that the next one depends on.

    On a CPU the same network, examples, recipe, machine and number of threads give the same weights, stopped and
    resumed or not; a GPU adds up in any order. Every process of `group` has the whole of it, dropout aside.
    """

    def __init__(
        self,
        network: Network,
        examples: Sequence[Sequence[EncodedExample]],
        recipe: Recipe,
        pad_id: int,
        text_of: Callable[[EncodedExample], str],
        group: Group | None = None,
    ) -> None:
        """`examples[t]` are those of task t. `text_of` says what an example is when its loss is no number."""
        self.network, self.recipe, self.group = network, recipe, group or Group()
        self.examples = self.updates = 0
        self._evaluations = self._checkpoints = 0
        self._pad_id, self._text_of = pad_id, text_of
        self._device = next(network.parameters()).device
        torch.manual_seed(recipe.seed + self.group.rank)  # every process drops out others
        self.optimizer = make_optimizer(network, recipe.optimizer)
        self._parameters = [parameter for own in self.optimizer.param_groups for parameter in own["params"]]
        self.average = WeightAverage(self._parameters, recipe.optimizer.average)
        self.batches = BatchSampler(examples, recipe.sampler, recipe.length, recipe.seed, self._score)

    @property
    def progress(self) -> float:
        """0 to 1."""
        return min(1.0, self.examples / self.recipe.length.examples)

    @property
    def evaluation_due(self) -> bool:
        """Whether enough examples went by since the last evaluation that was finished."""
        return _times(self.examples, self.recipe.length.evaluate_every) > self._evaluations

    def mark_evaluated(self) -> None:
        """Notes that the evaluation that was due is done."""
        self._evaluations = _times(self.examples, self.recipe.length.evaluate_every)

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough examples went by since the last checkpoint, or the run is at its end."""
        return self.progress == 1 or _times(self.examples, self.recipe.length.checkpoint_every) > self._checkpoints

    def step(self, *, stop: bool = False) -> Step:
        """One update on the next batch; `stop`: whether this process was asked to.

        Raises NonFiniteLossError before the update, with every weight as it was.
        """
        batch = self.batches.next(self.progress)
        set_learning_rate(self.optimizer, self.progress, self.recipe.optimizer.warmup)
        losses, entropies, norm, stop = self._gradients(batch, stop)
        self._check(batch, losses, norm)
        self.optimizer.step()
        self.average.update(self.updates)
        if self.batches.needs_entropies:
            self.batches.observe(batch, [None if math.isnan(value) else value for value in entropies])
        self.updates += 1
        self.examples += len(batch)
        rate = max(own["lr"] for own in self.optimizer.param_groups)
        tokens = sum(len(encoding) for example in batch for encoding in example.encodings)
        return Step(self.examples, self.updates, rate, [own.task_id for own in batch], losses, tokens, stop)

    def _gradients(self, batch: Sequence[EncodedExample], stop: bool) -> tuple[list[float], list[float], float, bool]:
        """Leaves the clipped gradients of the whole batch. Gives losses, entropies, the norm, and who was asked to stop.

        Each process computes its share; one transfer at the end brings all numbers from the device.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        first, end = self.group.share(len(batch))
        weights = example_weights(batch, self.recipe)
        losses, entropies = self._backward(batch[first:end], weights[first:end])
        around = (first, len(batch) - end)
        own = [functional.pad(losses, around), functional.pad(entropies, around), losses.new_tensor([float(stop)])]
        values = self.group.all_reduce_gradients(self._parameters, torch.cat(own))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.optimizer.clip_norm)
        *numbers, asked, length = torch.cat([values, norm[None]]).tolist()
        return numbers[: len(batch)], numbers[len(batch) :], length, asked > 0

    def _backward(self, share: Sequence[EncodedExample], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The gradients of a part of a batch, each loss weighted; gives losses and entropies (NaN: none), [part]."""
        if not share:
            return torch.zeros(0, device=self._device), torch.zeros(0, device=self._device)
        batch = batch_examples(share, self.network.tasks, self._pad_id)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.length.bf16):
            outputs = self.network(batch.batch.to(self._device), self.network.condition())
        losses = example_losses(self.network, outputs, batch)
        torch.autograd.backward((losses * losses.new_tensor(weights)).sum())
        entropies = batch_entropies(self.network, outputs, batch) if self.batches.needs_entropies else []
        known = [math.nan if entropy is None else entropy for entropy in entropies]
        return losses.detach(), losses.new_tensor(known or [math.nan] * len(share))

    def _score(self, found: Sequence[EncodedExample]) -> list[Entropy]:
        """What MT-Uncertainty chooses by; the same in every process to the bit."""
        length = self.recipe.length
        rows = example_entropies(self.network, found, self._pad_id, length.batch_rows, bf16=length.bf16)
        return self.group.broadcast(rows)

    def _check(self, batch: Sequence[EncodedExample], losses: Sequence[float], norm: float) -> None:
        broken = [example for example, loss in zip(batch, losses, strict=True) if not math.isfinite(loss)]
        if broken or not math.isfinite(norm):
            raise NonFiniteLossError(self._complaint(broken, batch))

    def _complaint(self, broken: Sequence[EncodedExample], batch: Sequence[EncodedExample]) -> str:
        at_fault = broken or batch
        names = sorted({self.network.tasks[example.task_id].name for example in at_fault})
        what = f"{len(broken)} of {len(batch)} losses" if broken else "the gradient of a batch whose losses are finite"
        lines = [f"update {self.updates + 1}: no longer a number: {what}, of {', '.join(names)}"]
        for example in at_fault[:_MOST_NAMED]:
            text = self._text_of(example)
            text = text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 1]}…"
            lines.append(f"  {self.network.tasks[example.task_id].name}: {text}")
        if len(at_fault) > _MOST_NAMED:
            lines.append(f"  … and {len(at_fault) - _MOST_NAMED} more")
        remedies = ["look at these records", "lower the learning rates", "lengthen the warmup"]
        remedies += ["switch bf16 off"] if self.recipe.length.bf16 else []
        return "\n".join([*lines, f"what to try: {', '.join(remedies)}"])

    def snapshot(self) -> Snapshot:
        """All of it but what the recipe, the data and the backbone give again. Every process must ask at once."""
        self._checkpoints = _times(self.examples, self.recipe.length.checkpoint_every)
        tensors = {f"network.{name}": tensor for name, tensor in _learnt(self.network).items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        tensors |= {f"average.{place}": tensor for place, tensor in enumerate(self.average.weights)}
        return Snapshot(
            tensors,
            {
                "counters": [self.examples, self.updates, self._evaluations, self._checkpoints],
                "batches": self.batches.state(),
                "random": self.group.gather(random_states(self._device)),
            },
        )

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to where `snapshot` was taken. Raises RunError if it is of another network."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}}
        for key, tensor in snapshot.tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = tensor
        own = _learnt(self.network)
        averages = {str(place): tensor for place, tensor in enumerate(self.average.weights)}
        if set(own) != set(parts["network"]) or set(averages) != set(parts["average"]):
            raise RunError("the checkpoint is of another network: go on with the code that began the run")
        for mine, kept in ((own, parts["network"]), (averages, parts["average"])):
            for name, tensor in mine.items():
                tensor.copy_(kept[name])
        restore_optimizer(self.optimizer, parts["optimizer"])
        self.examples, self.updates, self._evaluations, self._checkpoints = snapshot.state["counters"]
        self.batches.restore(snapshot.state["batches"])
        restore_random_states(snapshot.state["random"][self.group.rank], self._device)


def train(training: Training, logger: RunLogger, checkpoints: Path, evaluate: Callable[[], Iterable[object]]) -> None:
    """Trains to the end of the recipe. Writes checkpoints to the folder `checkpoints` on the way and at the end.

    `evaluate` is called when an evaluation is due and iterated; between its items a signal can stop it. Raises
    Interrupted after SIGTERM or SIGINT, once the checkpoint is written; RunError if it cannot be written;
    NonFiniteLossError, after the weights before that update were saved beside the checkpoints.
    """
    stop, failed = False, checkpoints / FAILED
    with InterruptHandler() as interrupts:
        while True:
            if training.evaluation_due:
                stop = _evaluate(training, evaluate, interrupts) or stop
            if stop or training.checkpoint_due:
                _save(training, logger, lambda snapshot: write_checkpoint(checkpoints, training.updates, snapshot))
            if stop:
                raise Interrupted(interrupts.received or signal.SIGTERM)
            if training.progress == 1:
                return
            try:
                step = training.step(stop=interrupts.received is not None)
            except NonFiniteLossError as error:
                _save(training, logger, lambda snapshot: write_snapshot(failed, snapshot))
                raise NonFiniteLossError(f"{error}\nthe weights before it are kept in {failed}") from error
            logger.advance(step)
            stop = step.stop


def _evaluate(training: Training, evaluate: Callable[[], Iterable[object]], interrupts: InterruptHandler) -> bool:
    """Whether any process was asked to stop. An evaluation that was interrupted is repeated after the run is resumed."""
    if training.group.is_main:
        with training.average.applied():
            for _ in evaluate():
                if interrupts.received is not None:
                    break
            else:
                training.mark_evaluated()
    else:
        training.mark_evaluated()
    return training.group.any(interrupts.received is not None)


def _save(training: Training, logger: RunLogger, write: Callable[[Snapshot], None]) -> None:
    snapshot = training.snapshot()
    if training.group.is_main:
        snapshot.state["journal"] = logger.state()
        write(snapshot)


def _learnt(network: Network) -> dict[str, Tensor]:
    """What training may change: the trainable parameters and the buffers, by name."""
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    return trainable | dict(network.named_buffers())


def _times(examples: int, every: int) -> int:
    return examples // every if every else 0
