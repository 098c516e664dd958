"""Pipeline of a training run: prepare, train, publish a version, report. Also measures a published version again."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from polytask.model.encoding import InputEncoder
from polytask.model.network import parameter_counts
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.durable_files import replace_text
from polytask.model_store.load import load
from polytask.model_store.save import check_writable
from polytask.model_store.versions import resolve
from polytask.training.data.examples import TaskData
from polytask.training.data.statistics import data_statistics
from polytask.training.data.version_data import changed_files, validation_data
from polytask.training.evaluation.diagnostics import diagnose
from polytask.training.evaluation.evaluate import answer_tasks, evaluate_tasks, score_tasks
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.score_table import scores_table
from polytask.training.evaluation.selection import Selection, mean_score
from polytask.training.evaluation.simple_models import References
from polytask.training.evaluation.task_warnings import task_warnings
from polytask.training.loop.distributed import Group, process_group
from polytask.training.loop.interrupts import Interrupted, InterruptHandler
from polytask.training.loop.length import check_passes, length_line, planned_examples
from polytask.training.loop.shares import planned_draws
from polytask.training.loop.trainer import Training, ending_line, train
from polytask.training.preparation import PreparedRun, choose_device, prepare
from polytask.training.publishing.calibration import num_calibration_rows
from polytask.training.publishing.publish import publish, round_network
from polytask.training.recipes.schema import read_recipe
from polytask.training.report.write_report import write_report
from polytask.training.runs.checkpoints import RunError, Snapshot, latest_checkpoint, read_snapshot
from polytask.training.runs.console_display import Display
from polytask.training.runs.event_log import EventLog
from polytask.training.runs.progress import ProgressBar, num_rows, rows_counted
from polytask.training.runs.references import score_references
from polytask.training.runs.run_folder import RunFolder
from polytask.training.runs.run_logger import RunLogger
from polytask.training.runs.run_reader import RunFolderError
from polytask.training.runs.tensorboard_writer import TensorBoardWriter
from polytask.training.teachers.teach import teach
from polytask.training.tuning.second_stage import tune_tasks, with_kept

LOGITS = "teachers.logits"
"""The folder of teachers' logits, beside those of runs. No recipe has this name."""

_WARNED_FROM = 0.3
"""Progress from which on a head that says one label only is a warning; before, every head does."""


def run_recipe(
    path: Path, data_folder: Path, store: Path, console: Console, folder: Path | None = None, *, resume: bool = False
) -> Path:
    """Trains as the recipe says and publishes a version. Returns the version's folder.

    The run is kept in `folder` (by default `runs/` and the recipe's name); `resume` continues the run there. Of several
    processes started by torchrun only the main one prints and writes. Raises RecipeError, DataError, StoreError or
    RunError before training starts; NonFiniteLossError, RunError or Interrupted while it runs.
    """
    recipe, text = read_recipe(path)
    run_folder = RunFolder(folder or Path("runs") / recipe.name)
    with process_group() as group:
        if not group.is_main:
            prepared = prepare(recipe, text, data_folder, Console(quiet=True))
            if recipe.teachers.teach:
                prepared = _taught(prepared, run_folder, store, Console(quiet=True), group)
            return train_only(prepared, run_folder, group)
        check_writable(store, recipe.name)
        if recipe.teachers.version is not None:
            resolve(store, recipe.teachers.version)
        run_folder.check(resume=resume)
        prepared = prepare(recipe, text, data_folder, console)
        _show_plan(prepared, run_folder, console)
        training = _new_training(prepared, group)
        if recipe.length.bf16 is None and not resume:
            console.print("timing some steps in float32 and in bfloat16")
            bf16 = training.choose_precision()
            prepared = prepared.with_provenance({**prepared.provenance, "bf16": bf16})
            console.print(f"computes in {'bfloat16' if bf16 else 'float32'}, the faster one here")
        with (
            _saying_how_to_resume(_resume_command(path, data_folder, store, run_folder.path, group.size), run_folder),
            run_folder.locked(
                prepared.fingerprint(group.size), prepared.provenance, resume=resume
            ) as original_provenance,
        ):
            prepared = prepared.with_provenance(original_provenance)
            references = run_folder.references(partial(_score_references, prepared, console))
            prepared = replace(prepared, references=references)
            if recipe.teachers.teach:
                prepared = _taught(prepared, run_folder, store, console, group)
                training = _new_training(prepared, group)
            version = train_and_publish(prepared, training, run_folder, store, console)
    # Soft wrapping: the terminal may fold the line, but whoever copies or parses it gets it in one piece.
    console.print(published_line(version), soft_wrap=True, markup=False, highlight=False)
    try:
        report = f"report: {write_report(run_folder.path)}"
    except RunFolderError as error:  # the version is published all the same
        report = f"no report: {error}"
    console.print(report, soft_wrap=True, markup=False, highlight=False)
    return version


def _show_plan(prepared: PreparedRun, run_folder: RunFolder, console: Console) -> None:
    """Prints what is trained on what, and for how long. Raises RecipeError for a length that the sampler does not allow."""
    recipe, sizes = prepared.recipe, [len(examples) for examples in prepared.examples]
    check_passes(sizes, recipe.sampler, recipe.length)
    total = planned_examples(sizes, recipe.sampler, recipe.length)
    draws = planned_draws(sizes, recipe.sampler, total)
    console.print(data_statistics(prepared.data, prepared.examples, draws, prepared.encoder))
    counts = parameter_counts(prepared.network)
    console.print(f"{counts}, on {device_name(choose_device())}; kept in {run_folder.path}", soft_wrap=True)
    console.print(length_line(recipe.length, total), soft_wrap=True)


@contextmanager
def _saying_how_to_resume(command: str, run_folder: RunFolder) -> Iterator[None]:
    """Adds the command that resumes the run to what a full disk or a signal ends in the block."""
    try:
        yield
    except OSError as error:
        where, reason = error.filename or run_folder.path, error.strerror or error
        message = f"{where}: cannot be written ({reason}); make room, then go on with: {command}"
        raise RunError(message) from error
    except Interrupted as interrupted:
        name = signal.Signals(interrupted.number).name
        raise Interrupted(interrupted.number, f"stopped by {name}; to go on: {command}") from interrupted


def _taught(prepared: PreparedRun, run_folder: RunFolder, store: Path, console: Console, group: Group) -> PreparedRun:
    """The run with the answers of its teachers, which train in its precision. Their logits are kept beside the runs' folders."""
    recipe = prepared.recipe
    if recipe.length.bf16 is None:
        bf16 = group.broadcast(prepared.provenance.get("bf16", False))
        recipe = recipe.model_copy(update={"length": recipe.length.model_copy(update={"bf16": bf16})})
    examples = teach(
        recipe,
        prepared.data,
        prepared.examples,
        prepared.backbone,
        prepared.encoder,
        cache=run_folder.path.parent / LOGITS,
        store=store,
        console=console,
        group=group,
    )
    return replace(prepared, examples=examples)


def train_and_publish(
    prepared: PreparedRun, training: Training, run_folder: RunFolder, store: Path, console: Console
) -> Path:
    """Trains and publishes, in the main process. Returns the version's folder. Raises as `train`."""
    _share_precision(training, prepared.provenance.get("bf16", False))
    snapshot = _restore(training, latest_checkpoint(run_folder.checkpoints))
    recipe, tasks, total = prepared.recipe, prepared.network.tasks, training.num_examples
    display = Display(console, tasks, total)
    with ExitStack() as stack:
        log = EventLog(run_folder.history, 0 if snapshot is None else snapshot.state["journal"]["history"])
        tensorboard = None
        if recipe.length.tensorboard:
            tensorboard = _open_tensorboard(run_folder, training.examples, console, stack)
        logger = RunLogger(tasks, total, display, log, tensorboard)
        if snapshot is None:
            logger.start(recipe.name, asdict(parameter_counts(prepared.network)))
        else:
            logger.restore(snapshot.state["journal"])
            logger.resume()
            console.print(f"goes on after {training.examples:,} of {total:,} examples")

        def evaluate() -> Iterator[None]:
            """Pauses after each task, so that a signal can stop the evaluation there."""
            answers = {}
            display.begin("evaluating", _num_validation_rows(prepared.data))
            with rows_counted(prepared.network, display.advance_work):
                for task, task_answers in answer_tasks(prepared.network, prepared.encoder, prepared.data):
                    answers[task] = task_answers
                    yield
            scores = score_tasks(prepared.data, answers)
            logger.log_evaluation(scores)
            console.print(_scores_table(prepared, scores))

        def select() -> Iterator[None]:
            """Pauses after each task, as well."""
            answers = {}
            display.begin("evaluating on selection", selection.num_rows)
            with rows_counted(prepared.network, display.advance_work):
                for task, task_answers in selection.answers(prepared.network, prepared.encoder):
                    answers[task] = task_answers
                    yield
            if not answers:
                return
            scores = selection.scores(answers)
            training.best.add(mean_score(scores), training.examples)
            warnings = selection.warnings(answers) if training.progress >= _WARNED_FROM else {}
            logger.log_selection(scores, warnings)
            for task, warning in warnings.items():
                console.print(f"warning: {task} {warning}", soft_wrap=True, markup=False, highlight=False)

        selection = Selection(prepared.data)
        with display:
            train(training, logger, run_folder.checkpoints, evaluate, select)
            ending = ending_line(training)
            console.print(ending, soft_wrap=True, highlight=False)
            _apply_published_weights(training)
            prepared = _tune(prepared, run_folder, display, logger, console)
            version = _publish(prepared, run_folder, store, display, console, ending)
        logger.finish(f"{version.parent.name}/{version.name}", ending)
    shutil.rmtree(run_folder.checkpoints)
    return training.group.broadcast(version)


def _apply_published_weights(training: Training) -> None:
    """Gives the network the weights that are published: the average, or the best state."""
    training.average.apply()
    training.best.apply()


def train_only(prepared: PreparedRun, run_folder: RunFolder, group: Group) -> Path:
    """Trains in any other process, then waits for the main one. Returns the version's folder."""
    training = _new_training(prepared, group)
    _share_precision(training, False)
    _restore(training, None)
    tasks, total = prepared.network.tasks, training.num_examples
    logger = RunLogger(tasks, total, Display(Console(quiet=True), tasks, total))
    train(training, logger, run_folder.checkpoints, lambda: ())
    return group.broadcast(Path())


def _new_training(prepared: PreparedRun, group: Group) -> Training:
    return Training(
        prepared.network,
        prepared.examples,
        prepared.recipe,
        prepared.encoder.pad_id,
        text_of=prepared.text_of,
        group=group,
    )


def _share_precision(training: Training, bf16: bool) -> None:
    """Sets the precision of a run whose recipe leaves it open to that of the main process."""
    if training.recipe.length.bf16 is None:
        training.bf16 = training.group.broadcast(bf16)


def _restore(training: Training, checkpoint: Path | None) -> Snapshot | None:
    """Resumes from the main process's `checkpoint`, if it has one."""
    checkpoint = training.group.broadcast(checkpoint)
    if checkpoint is None:
        return None
    snapshot = read_snapshot(checkpoint)
    training.restore(snapshot)
    return snapshot


def _open_tensorboard(
    run_folder: RunFolder, examples: int, console: Console, stack: ExitStack
) -> TensorBoardWriter | None:
    """A writer that is closed with the `stack`; None, with a line on the console, if the package is not installed."""
    try:
        writer = TensorBoardWriter(run_folder.tensorboard, examples)
    except ImportError:
        console.print("nothing is written for TensorBoard: its package is not installed (pip install tensorboard)")
        return None
    stack.callback(writer.close)
    return writer


def _tune(
    prepared: PreparedRun, run_folder: RunFolder, display: Display, logger: RunLogger, console: Console
) -> PreparedRun:
    """The run after its second stage, if the recipe has one. Raises Interrupted after a signal; finished tasks stay so."""
    config = prepared.recipe.second_stage
    if config is None:
        return prepared
    round_network(prepared)
    data = [each for each in prepared.data if not config.tasks or each.task.name in config.tasks]
    with InterruptHandler() as interrupts:

        def advance(count: int) -> None:
            display.advance_work(count)
            if interrupts.received is not None:
                raise Interrupted(interrupts.received)

        def begin(doing: str, total: int) -> Callable[[int], None]:
            display.begin(doing, total)
            return advance

        tuned = tune_tasks(
            prepared.network,
            prepared.encoder,
            data,
            config,
            console,
            run_folder.second_stage,
            seed=prepared.recipe.seed,
            begin=begin,
        )
    gains = {name: task.gain for name, task in tuned.items()}
    logger.log_tuning(gains)
    return replace(prepared, network=with_kept(prepared.network, tuned, config), gains=gains)


def _score_references(prepared: PreparedRun, console: Console) -> References:
    """The scores of the simple models, which are also shown, so that it is known from the start what there is to beat."""
    run = prepared.data, prepared.backbone, prepared.encoder
    bf16 = bool(prepared.provenance.get("bf16", prepared.recipe.length.bf16))
    references = score_references(*run, choose_device(), console, bf16=bf16)
    console.print(scores_table(prepared.baselines, references, measured="trivial"))
    return references


def _scores_table(prepared: PreparedRun, scores: Mapping[str, Scores]) -> Table:
    return scores_table(scores, {"trivial": prepared.baselines, **prepared.references})


def _publish(
    prepared: PreparedRun, run_folder: RunFolder, store: Path, display: Display, console: Console, ending: str
) -> Path:
    """Publishes the network and writes its scores and diagnostics into the run's folder."""
    total_rows = _num_validation_rows(prepared.data) + sum(map(num_calibration_rows, prepared.data))
    display.begin("publishing", total_rows)
    with rows_counted(prepared.network, display.advance_work):
        published = publish(prepared, store, ending)
    scores = published.scores
    display.show_scores(scores)
    console.print(_scores_table(prepared, scores))
    warnings = task_warnings(prepared.data, scores, published.answers, prepared.references)
    for name, warning in warnings.items():
        console.print(f"warning: {name} {warning}", soft_wrap=True, markup=False, highlight=False)
    diagnostics = {}
    display.begin("diagnosing", len(prepared.data))
    for task, task_data in zip(prepared.network.tasks, prepared.data, strict=True):
        diagnostics[task.name] = diagnose(task, task_data.validation, published.answers[task.name])
        display.advance_work()
    bad_rows = {task_data.task.name: task_data.bad_rows for task_data in prepared.data if task_data.bad_rows}
    results = {
        "scores": scores,
        "baselines": prepared.baselines,
        "references": prepared.references,
        "calibration": {task: asdict(effect) for task, effect in published.calibration.items()},
        "diagnostics": diagnostics,
        "bad_rows": bad_rows,
        "warnings": warnings,
        "second_stage": {name: asdict(gain) for name, gain in prepared.gains.items()},
    }
    replace_text(run_folder.results, json.dumps(results, ensure_ascii=False))
    return published.version


def evaluate_version(version: Path, data_folder: Path, console: Console) -> dict[str, Scores]:
    """Measures a version of the store again, on the validation files of its recipe.

    Names on the console the files that have changed since it was published. Raises StoreError or DataError.
    """
    data = validation_data(version, data_folder)
    changed = changed_files(version, data_folder)
    checkpoint = load(version)
    network, encoder = checkpoint.network.to(choose_device()), InputEncoder(checkpoint.tokenizer)
    with (
        ProgressBar(console, "evaluating", _num_validation_rows(data), "rows") as bar,
        rows_counted(network, bar.advance),
    ):
        scores = evaluate_tasks(network, encoder, data)
    if changed:
        console.print(
            f"warning: not the data that the version was measured on when published: {', '.join(changed)}",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
    console.print(scores_table(scores, {"when published": checkpoint.manifest.metrics}))
    return scores


def _num_validation_rows(data: Sequence[TaskData]) -> int:
    return sum(num_rows(example.input for example in task_data.validation) for task_data in data)


def device_name(device: torch.device) -> str:
    """The device's name for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def published_line(version: Path) -> str:
    """Where the new version is, and the command that promotes it."""
    store, name, number = version.parent.parent, version.parent.name, version.name
    option = "" if store.resolve() == DEFAULT_STORE.resolve() else f" --store {shlex.quote(str(store))}"
    return f"published {version}; to serve it as {name}: polytask models promote {name}/{number}{option}"


def _resume_command(recipe: Path, data_folder: Path, store: Path, run_folder: Path, num_processes: int) -> str:
    # `-m polytask` would put the working folder on the path, where a `polytask` of the user could hide ours.
    launcher = "" if num_processes == 1 else f"torchrun --nproc_per_node {num_processes} --no-python "
    options = {"--data": data_folder, "--store": store, "--run-folder": run_folder}
    words = [str(word) for pair in options.items() for word in pair]
    return f"{launcher}polytask train {shlex.quote(str(recipe))} {shlex.join(words)} --resume"
