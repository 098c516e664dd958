"""Trainer: the training loop and its steps. Between any two steps a run can stop and be resumed later."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from polytask.model.network import Network
from polytask.training.data.examples import EncodedExample
from polytask.training.loop.annealing import anneal
from polytask.training.loop.best_state import BestState
from polytask.training.loop.distributed import Group
from polytask.training.loop.interrupts import Interrupted, InterruptHandler
from polytask.training.loop.length import limit_seconds, patience
from polytask.training.loop.loss_starts import loss_start
from polytask.training.loop.losses import batch_examples, example_losses, example_weights
from polytask.training.loop.memory import run_in_pieces
from polytask.training.loop.optimizer import (
    WeightAverage,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
)
from polytask.training.loop.precision import is_faster_in_bf16
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
NUM_SELECTIONS = 10
"""Number of evaluations on selection in a run, the last one at its end."""
_MAX_NAMED = 5
_TEXT_LENGTH = 80


class NonFiniteLossError(Exception):
    """A loss or gradient is not finite; the message names the tasks and records and the remedies to try."""


class Training:
    """A run between two steps: everything that the next step depends on.

    On a CPU the same network, examples, recipe, machine and number of threads give the same weights, whether the run was
    resumed or not, unless the limit in minutes makes it shorter; a GPU adds numbers in any order. All processes of `group`
    have the same state, except for dropout.
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
        """`examples[t]` are those of task t. `text_of` gives an example's text for messages."""
        self.network, self.recipe, self.group = network, recipe, group or Group()
        self.examples = self.updates = 0
        self.ended_early = False
        self.bf16 = bool(recipe.length.bf16)
        """Whether steps are computed in bfloat16. If the recipe leaves it open, `choose_precision` says what to set."""
        self._evaluations = self._selections = self._checkpoints = 0
        self._seconds = self._earlier_seconds = 0.0
        self._started: float | None = None  # at the first step
        self._limit = limit_seconds(recipe.length)
        self._examples_by_task = examples
        self._pad_id, self._text_of = pad_id, text_of
        self._device = next(network.parameters()).device
        torch.manual_seed(recipe.seed + self.group.rank)  # so that processes differ in dropout
        self.optimizer = make_optimizer(network, recipe.optimizer)
        self._parameters = [
            parameter for group_settings in self.optimizer.param_groups for parameter in group_settings["params"]
        ]
        self.average = WeightAverage(self._parameters, recipe.optimizer.average)
        self.best = BestState(self._parameters, patience(recipe.length))
        tasks = zip(network.tasks, examples, strict=True)
        self._loss_starts = [loss_start(task, own) for task, own in tasks] if recipe.losses.scaled else None
        self.batches = BatchSampler(examples, recipe.sampler, recipe.length, recipe.seed, self._score)
        self.num_planned = self.batches.num_draws
        """Number of examples after which the run ends, if nothing ends it earlier."""

    @property
    def progress(self) -> float:
        """The finished part of the run, 0 to 1: of its examples or of its time, whichever ends first.

        As the learning rates follow it, they reach zero at the limit in minutes, however fast the machine is.
        """
        if self.ended_early:
            return 1.0
        return min(1.0, max(self.examples / self.num_planned, self._seconds / self._limit))

    @property
    def is_limited_by_time(self) -> bool:
        """Whether the limit in minutes, rather than the number of examples, decides the length, as far as known."""
        return self._seconds / self._limit > self.examples / self.num_planned

    @property
    def num_examples(self) -> int:
        """The number of examples that the run draws in all, as far as known."""
        if self.ended_early:
            return self.examples
        return max(self.examples, round(self.examples / self.progress)) if self.is_limited_by_time else self.num_planned

    def choose_precision(self) -> bool:
        """Whether the run's steps are faster in bfloat16, after some of each. Changes neither weights nor random states."""
        states = random_states(self._device)

        def compute(batch: Sequence[EncodedExample], bf16: bool) -> None:
            self.network.train()
            self.bf16 = bf16
            self._backward(batch, [1 / len(batch)] * len(batch))
            self.optimizer.zero_grad(set_to_none=True)

        before = self.bf16
        faster = is_faster_in_bf16(compute, self._examples_by_task, self.recipe, self._device)
        self.bf16 = before
        restore_random_states(states, self._device)
        return faster

    @property
    def selection_due(self) -> bool:
        """Whether an evaluation on selection is due since the last one that was finished."""
        return int(self.progress * NUM_SELECTIONS) > self._selections

    def mark_selected(self) -> None:
        """Records that the evaluation on selection is finished."""
        self._selections = int(self.progress * NUM_SELECTIONS)

    @property
    def evaluation_due(self) -> bool:
        """Whether an evaluation is due since the last one that was finished."""
        return _num_intervals(self.examples, self.recipe.length.evaluate_every) > self._evaluations

    def mark_evaluated(self) -> None:
        """Records that the evaluation that was due is finished."""
        self._evaluations = _num_intervals(self.examples, self.recipe.length.evaluate_every)

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due since the last one, or the run is at its end."""
        return (
            self.progress == 1 or _num_intervals(self.examples, self.recipe.length.checkpoint_every) > self._checkpoints
        )

    def step(self, *, stop: bool = False) -> Step:
        """One update on the next batch. `stop`: whether this process was asked to stop.

        Raises NonFiniteLossError before the update, so no weight has changed.
        """
        self._started = time.monotonic() if self._started is None else self._started
        self.batches.num_draws = self.num_examples
        batch = self.batches.next(self.progress)
        set_learning_rate(self.optimizer, self.progress, self.recipe.optimizer.warmup)
        losses, entropies, norm, stop = self._gradients(batch, stop)
        self._check_finite(batch, losses, norm)
        self.optimizer.step()
        self.average.update(self.updates)
        if self.batches.needs_entropies:
            self.batches.observe(batch, [None if math.isnan(value) else value for value in entropies])
        self.updates += 1
        self.examples += len(batch)
        rate = max(param_group["lr"] for param_group in self.optimizer.param_groups)
        tokens = sum(len(encoding) for example in batch for encoding in example.encodings)
        task_ids = [example.task_id for example in batch]
        return Step(self.examples, self.updates, rate, task_ids, losses, tokens, stop, self.num_examples)

    def _gradients(self, batch: Sequence[EncodedExample], stop: bool) -> tuple[list[float], list[float], float, bool]:
        """Computes the clipped gradients of the batch. Returns losses, entropies, their norm, and whether to stop.

        Each process computes a part of the batch. All numbers come from the device in one transfer at the end.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        first, end = self.group.slice_of(len(batch))
        weights = example_weights(batch, self.recipe, self._loss_starts)
        losses, entropies = self._backward(batch[first:end], weights[first:end])
        padding = (first, len(batch) - end)
        flags = losses.new_tensor([self._clock(), float(stop)])
        parts = [functional.pad(losses, padding), functional.pad(entropies, padding), flags]
        values = self.group.all_reduce_gradients(self._parameters, torch.cat(parts))
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.recipe.optimizer.clip_norm)
        *numbers, self._seconds, asked, length = torch.cat([values, norm[None]]).tolist()
        return numbers[: len(batch)], numbers[len(batch) :], length, asked > 0

    def _clock(self) -> float:
        """The seconds of training so far, where there is a limit; 0 in other processes, which go by the main one's clock."""
        if self._started is None or not self.group.is_main or self._limit == math.inf:
            return 0.0
        return self._earlier_seconds + time.monotonic() - self._started

    def _backward(self, share: Sequence[EncodedExample], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Computes the gradients of a part of a batch. Returns its losses and entropies (NaN: none), [part]."""
        if not share:
            return torch.zeros(0, device=self._device), torch.zeros(0, device=self._device)
        batch = batch_examples(share, self.network.tasks, self._pad_id)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.bf16):
            rows, tables = batch.batch.to(self._device), self.network.condition()
            outputs = run_in_pieces(self.network, rows, tables, self.recipe.length.batch_tokens)
        losses = example_losses(self.network, outputs, batch)
        if self.recipe.teachers.teach:
            losses = anneal(losses, self.network, outputs, batch, self.progress)
        torch.autograd.backward((losses * losses.new_tensor(weights)).sum())
        entropies = batch_entropies(self.network, outputs, batch) if self.batches.needs_entropies else []
        numbers = [math.nan if entropy is None else entropy for entropy in entropies]
        return losses.detach(), losses.new_tensor(numbers or [math.nan] * len(share))

    def _score(self, examples: Sequence[EncodedExample]) -> list[Entropy]:
        """The entropies by which MT-Uncertainty selects, equal to the bit in all processes."""
        length = self.recipe.length
        entropies = example_entropies(self.network, examples, self._pad_id, length.batch_rows, bf16=self.bf16)
        return self.group.broadcast(entropies)

    def _check_finite(self, batch: Sequence[EncodedExample], losses: Sequence[float], norm: float) -> None:
        broken = [example for example, loss in zip(batch, losses, strict=True) if not math.isfinite(loss)]
        if broken or not math.isfinite(norm):
            raise NonFiniteLossError(self._failure_message(broken, batch))

    def _failure_message(self, broken: Sequence[EncodedExample], batch: Sequence[EncodedExample]) -> str:
        at_fault = broken or batch
        names = sorted({self.network.tasks[example.task_id].name for example in at_fault})
        what = f"{len(broken)} of {len(batch)} losses" if broken else "the gradient of a batch whose losses are finite"
        lines = [f"update {self.updates + 1}: no longer a number: {what}, of {', '.join(names)}"]
        for example in at_fault[:_MAX_NAMED]:
            text = self._text_of(example)
            text = text if len(text) <= _TEXT_LENGTH else f"{text[: _TEXT_LENGTH - 1]}…"
            lines.append(f"  {self.network.tasks[example.task_id].name}: {text}")
        if len(at_fault) > _MAX_NAMED:
            lines.append(f"  … and {len(at_fault) - _MAX_NAMED} more")
        remedies = ["look at these records", "lower the learning rates", "lengthen the warmup"]
        remedies += ["switch bf16 off"] if self.bf16 else []
        return "\n".join([*lines, f"what to try: {', '.join(remedies)}"])

    def snapshot(self) -> Snapshot:
        """The state, without what recipe, data and backbone determine. All processes must call it together."""
        self._checkpoints = _num_intervals(self.examples, self.recipe.length.checkpoint_every)
        tensors = {f"network.{name}": tensor for name, tensor in _trained_tensors(self.network).items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()}
        tensors |= {f"average.{index}": tensor for index, tensor in enumerate(self.average.weights)}
        tensors |= {f"best.{index}": tensor for index, tensor in enumerate(self.best.weights)}
        return Snapshot(
            tensors,
            {
                "counters": [self.examples, self.updates, self._evaluations, self._checkpoints, self._selections],
                "seconds": self._seconds,
                "ended_early": self.ended_early,
                "best": self.best.state(),
                "batches": self.batches.state(),
                "random": self.group.gather(random_states(self._device)),
            },
        )

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Restores the state of `snapshot`. Raises RunError if it is of another network."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}, "best": {}}
        for key, tensor in snapshot.tensors.items():
            part, name = key.split(".", 1)
            parts[part][name] = tensor
        trained = _trained_tensors(self.network)
        averages = {str(index): tensor for index, tensor in enumerate(self.average.weights)}
        if set(trained) != set(parts["network"]) or set(averages) != set(parts["average"]):
            raise RunError("the checkpoint is of another network: go on with the code that began the run")
        for tensors, stored in ((trained, parts["network"]), (averages, parts["average"])):
            for name, tensor in tensors.items():
                tensor.copy_(stored[name])
        restore_optimizer(self.optimizer, parts["optimizer"])
        counters = snapshot.state["counters"]
        self.examples, self.updates, self._evaluations, self._checkpoints, self._selections = counters
        self._seconds, self.ended_early = snapshot.state["seconds"], snapshot.state["ended_early"]
        self._earlier_seconds, self._started = self._seconds, None
        best = parts["best"]
        self.best.restore(snapshot.state["best"], [best[str(index)] for index in range(len(best))])
        self.batches.restore(snapshot.state["batches"])
        restore_random_states(snapshot.state["random"][self.group.rank], self._device)


def train(
    training: Training,
    logger: RunLogger,
    checkpoints: Path,
    evaluate: Callable[[], Iterable[object]],
    select: Callable[[], Iterable[object]] = lambda: (),
) -> None:
    """Trains to the end of the recipe. Writes checkpoints to the folder `checkpoints` on the way and at the end.

    `evaluate` is called when an evaluation is due, and `select` when one on selection is, which adds its score to
    `training.best`. Both are iterated; between their items a signal can stop them. Raises
    Interrupted after SIGTERM or SIGINT, once the checkpoint is written; OSError if it cannot be written;
    NonFiniteLossError, after the weights before that update were saved beside the checkpoints.
    """
    stop, failed = False, checkpoints / FAILED
    with InterruptHandler() as interrupts:
        while True:
            if training.evaluation_due:
                stop = _evaluate(training, evaluate, training.mark_evaluated, interrupts) or stop
            if training.selection_due and not stop:
                stop = _evaluate(training, select, training.mark_selected, interrupts)
                training.ended_early = training.group.any(training.best.is_exhausted)
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


def ending_line(training: Training) -> str:
    """Why the training has ended, and which state is the result, for people."""
    line = f"trained on {training.examples:,}"
    if training.ended_early:
        line += f" of {training.num_planned:,} examples; ended, as the mean score on selection got no better"
    elif training.is_limited_by_time:
        minutes = limit_seconds(training.recipe.length) / 60
        line += f" of {training.num_planned:,} examples; ended by the limit of {minutes:g} minutes"
    else:
        line += " examples, as planned"
    kept = training.best.examples
    return line if kept is None else f"{line}; kept is the state after {kept:,}, the best on selection"


def _evaluate(
    training: Training, evaluate: Callable[[], Iterable[object]], mark: Callable[[], None], interrupts: InterruptHandler
) -> bool:
    """Whether any process was asked to stop. An evaluation that was interrupted is repeated after the run is resumed."""
    if training.group.is_main:
        with training.average.applied():
            for _ in evaluate():
                if interrupts.received is not None:
                    break
            else:
                mark()
    else:
        mark()
    return training.group.any(interrupts.received is not None)


def _save(training: Training, logger: RunLogger, write: Callable[[Snapshot], None]) -> None:
    snapshot = training.snapshot()
    if training.group.is_main:
        snapshot.state["journal"] = logger.state()
        write(snapshot)


def _trained_tensors(network: Network) -> dict[str, Tensor]:
    """The tensors that training may change: trainable parameters and buffers, by name."""
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    return trainable | dict(network.named_buffers())


def _num_intervals(examples: int, every: int) -> int:
    return examples // every if every else 0
