"""Tuner: one task's row, residual and head are trained alone on a trunk that stays fixed, and the best state is kept.

Source of the two stages: Stickland & Murray, "BERT and PALs", 2019, and Frohmann et al., "ScaLearn", 2023, learn what
tasks share first and what each needs afterwards; of the residual: Hu et al., "LoRA", ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from polytask.model.answers import Answer
from polytask.model.encoding import InputEncoder
from polytask.model.network import Network
from polytask.model.tasks import Task
from polytask.model.unfolding import with_tuned_rows
from polytask.training.data.examples import EncodedExample, Example, TaskData, encode_examples, weigh_labels_equally
from polytask.training.evaluation.evaluate import answer_inputs
from polytask.training.evaluation.metrics import Scores, score_answers
from polytask.training.evaluation.paired_gain import PairedGain, paired_gain
from polytask.training.loop.losses import batch_examples, example_losses
from polytask.training.loop.optimizer import set_learning_rate
from polytask.training.loop.sampling import ExampleRef, ShuffledExamples, batch_by_length
from polytask.training.publishing.calibration import calibrate_task
from polytask.training.recipes.architecture import named_layers
from polytask.training.recipes.second_stage import SecondStageConfig
from polytask.training.tuning.lower_states import LowerStates
from polytask.training.tuning.own_tensors import own_tensors, put_own_tensors

_WARMUP = 0.1
_CLIP_NORM = 1.0
_BATCH_TOKENS = 8192
_WINDOW_BATCHES = 50

_MOST_IN_A_ROUND = 10_000
"""Examples between two measurements; a shorter pass is a round."""

_PATIENCE = 2
"""Rounds in a row without a better state after which the tuning ends."""

_MEASURED = 64
"""Examples in a batch of a measurement."""

_PRECISION = torch.float16
"""Of stored weights, so that what is compared is what a version will hold."""


@dataclass(frozen=True, slots=True)
class TunedTask:
    """What came of tuning a task.

    `gain`: of its main metric on its selection examples. `best_round`: the round after which the state was best, 0 for
    the old state, of `rounds`. `tensors`: the best state, as `own_tensors` gives it.
    """

    gain: PairedGain
    best_round: int
    rounds: int
    tensors: dict[str, Tensor]

    @property
    def is_kept(self) -> bool:
        """Whether the tuned state replaces the old one: if it is better by more than one standard error."""
        return self.gain.is_sure


@dataclass(frozen=True, slots=True)
class _Measured:
    """A state on the selection examples: the calibrated task, its answers, and the mean loss before calibration."""

    task: Task
    answers: Sequence[Answer]
    scores: Scores
    loss: float

    @property
    def score(self) -> float:
        return next(iter(self.scores.values()))

    def is_better_than(self, other: _Measured) -> bool:
        return (self.score, -self.loss) > (other.score, -other.loss)


def planned_draws(data: TaskData, config: SecondStageConfig) -> int:
    """The most examples that the tuning of a task draws."""
    return min(config.passes * len(data.train), config.examples)


def tune_task(
    network: Network,
    encoder: InputEncoder,
    data: TaskData,
    config: SecondStageConfig,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> TunedTask:
    """Tunes the task of `data` for the network, which stays as it is.

    `advance` is called with the number of examples of every update, and may raise. The task must keep selection examples.
    """
    return _Tuning(network, encoder, data, config, seed).run(advance)


class _Tuning:
    """The tuning of one task in a copy of the network."""

    def __init__(
        self, network: Network, encoder: InputEncoder, data: TaskData, config: SecondStageConfig, seed: int
    ) -> None:
        self._encoder, self._data, self._config = encoder, data, config
        self._task_id = task_id = [task.name for task in network.tasks].index(data.task.name)
        layers = named_layers(config.layers, network.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = with_tuned_rows(
                network, [task_id], rank=config.rank, layers=layers, products=config.products
            ).eval()
        self._states = LowerStates(self._network, encoder.pad_id)
        train = encode_examples(encoder, data.task, task_id, data.train)
        self._train = weigh_labels_equally(train) if data.config.balanced else train
        self._draws = ShuffledExamples([len(train)], seed)
        selection = encode_examples(encoder, data.task, task_id, data.selection)
        self._selection = sorted(selection, key=lambda example: example.longest)
        assert self._network.tuned_rows is not None
        self._network.requires_grad_(False)
        self._parameters = [*self._network.tuned_rows.parameters(), *self._network.head_of(task_id).parameters()]
        for parameter in self._parameters:
            parameter.requires_grad_(True)

    def run(self, advance: Callable[[int], None]) -> TunedTask:
        """Trains round after round. `advance` is called with the number of examples of each update."""
        total = planned_draws(self._data, self._config)
        first = best = self._measure()
        best_tensors, best_round, rounds, drawn = self._rounded(), 0, 0, 0
        # Rows and columns of other tasks have no gradient, but weight decay would move them.
        groups = [{"params": self._parameters, "peak_lr": self._config.learning_rate, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, fused=True)
        while drawn < total and rounds - best_round < _PATIENCE:
            for batch in self._batches(min(len(self._train), _MOST_IN_A_ROUND, total - drawn)):
                set_learning_rate(optimizer, drawn / total, _WARMUP)
                self._step(optimizer, batch)
                drawn += len(batch)
                advance(len(batch))
            rounds += 1
            measured = self._measure()
            if measured.is_better_than(best):
                best, best_tensors, best_round = measured, self._rounded(), rounds
        put_own_tensors(self._network, self._task_id, best_tensors)
        after = self._measure()
        return TunedTask(self._gain(first, after), best_round, rounds, best_tensors)

    def _batches(self, count: int) -> Iterator[list[EncodedExample]]:
        """`count` of the training examples in batches of similar length; none comes again before all were drawn."""
        window = self._config.batch_rows * _WINDOW_BATCHES
        for start in range(0, count, window):
            refs = self._draws.draw(min(window, count - start), [1.0])
            batches = batch_by_length(refs, self._example, self._config.batch_rows, _BATCH_TOKENS)
            self._draws.random.shuffle(batches)
            for batch in batches:
                yield [self._example(ref) for ref in batch]

    def _example(self, ref: ExampleRef) -> EncodedExample:
        return self._train[ref[1]]

    def _step(self, optimizer: torch.optim.Optimizer, examples: Sequence[EncodedExample]) -> None:
        losses = self._losses(examples)
        weights = losses.new_tensor([example.weight for example in examples])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((losses * weights).mean())
        torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP_NORM)
        optimizer.step()

    def _losses(self, examples: Sequence[EncodedExample]) -> Tensor:
        """The loss of each example."""
        batch = batch_examples(examples, self._network.tasks, self._encoder.pad_id)
        states = self._states.of([row for example in examples for row in example.encodings])
        outputs = self._network.forward_from(states, batch.batch.to(states.device), self._network.condition())
        return example_losses(self._network, outputs, batch)

    def _rounded(self) -> dict[str, Tensor]:
        """The task's present state in the precision in which it will be stored."""
        tensors = own_tensors(self._network, self._task_id)
        return {name: tensor.to(_PRECISION).float() for name, tensor in tensors.items()}

    @torch.no_grad()
    def _measure(self) -> _Measured:
        network, task_id, examples = self._network, self._task_id, self._data.selection
        batches = [self._selection[i : i + _MEASURED] for i in range(0, len(self._selection), _MEASURED)]
        losses = torch.cat([self._losses(batch) for batch in batches])
        # Both sides of a comparison are calibrated, as they are when they are published; training goes on without it.
        trained, tasks = own_tensors(network, task_id), network.tasks
        calibrate_task(network, self._encoder, task_id, self._data)
        task = network.tasks[task_id]
        answers = answer_inputs(network, self._encoder, task_id, [example.input for example in examples])
        put_own_tensors(network, task_id, trained)
        network.tasks = tasks
        return _Measured(task, answers, self._scores(task, examples, answers), float(losses.mean()))

    def _scores(self, task: Task, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        config = self._data.config
        return score_answers(task, examples, answers, config.metric, config.positive_label)

    def _gain(self, before: _Measured, after: _Measured) -> PairedGain:
        examples, metric = self._data.selection, next(iter(before.scores))

        def score(measured: _Measured, indices: Sequence[int]) -> float:
            chosen = [examples[index] for index in indices]
            return self._scores(measured.task, chosen, [measured.answers[index] for index in indices])[metric]

        return paired_gain(metric, partial(score, before), partial(score, after), len(examples))
