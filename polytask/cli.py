"""Command line of Polytask. Each command imports its part when it runs, so that `polytask --help` needs no torch."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from polytask.model_store import DEFAULT_STORE
from polytask.model_store.errors import StoreError
from polytask.service.config.settings import PREFIX, RENAMED, Settings, all_settings, warn_of_former_names
from polytask.service.errors import StartupError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from polytask.model.network import Network
    from polytask.model.tasks import Task
    from polytask.model_store.manifest import Manifest
    from polytask.training.evaluation.evaluate import RunBatch

_PIPE_WIDTH = 160

app = typer.Typer(
    name="polytask",
    help="Many NLP tasks from one conditional multi-task transformer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="List, inspect, check, copy and promote the versions in a store.", no_args_is_help=True)
app.add_typer(models, name="models")
tasks = typer.Typer(
    help="Change single tasks of a version; every other task's answers stay the same.", no_args_is_help=True
)
app.add_typer(tasks, name="tasks")

Store = Annotated[Path, typer.Option("--store", envvar="POLYTASK_STORE", help="The folder of the store.")]
Reference = Annotated[str, typer.Argument(help="NAME (its current version) or NAME/VERSION.")]


def main() -> None:
    """Runs the command line. An error in a store, settings, a recipe or data is one line on stderr, and exit code 2."""
    try:
        app()
    except (StoreError, StartupError) as error:
        _fail(error)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"polytask {version('polytask')} (torch {version('torch')})")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `polytask` itself."""


def _fail(error: Exception) -> NoReturn:
    typer.secho(f"error: {error}", fg="red", err=True)
    sys.exit(2)


def _serve(**flags: str | None) -> None:
    """Serve a checkpoint over HTTP until SIGTERM. Every flag is a POLYTASK_ variable as well."""
    settings = Settings.from_environment(os.environ, flags)
    from polytask.service.observability.logs import configure_logs

    configure_logs("supervisor" if settings.engine_devices else "service", settings.log_format)
    warn_of_former_names(os.environ, flags)
    try:
        if settings.engine_devices:
            from polytask.service.processes import supervisor

            supervisor.serve(settings)
        else:
            from polytask.service import single_process

            single_process.serve(settings)
    except (StoreError, StartupError) as error:
        # Logged, so that the last line of the log says why the process ended.
        logging.getLogger(__name__).critical("%s", error)
        sys.exit(2)


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives the command a flag for each setting, so that no setting is listed twice. Former names stay, hidden."""
    flags = [
        _flag(
            setting.name,
            help=setting.help if setting.default == "" else f"{setting.help} (default: {setting.default})",
            metavar=setting.name.upper(),
        )
        for setting in all_settings()
    ]
    flags += [_flag(former.removeprefix(PREFIX).lower(), hidden=True) for former in RENAMED]
    command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return command


def _flag(name: str, **option: Any) -> inspect.Parameter:
    annotation = Annotated[str | None, typer.Option(**option)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


app.command("serve")(_with_flags(_serve))


@app.command("key")
def make_key(
    name: Annotated[str, typer.Argument(help="What to call the key in files, logs and messages.")],
    admin: Annotated[bool, typer.Option("--admin", help="The key may use /admin as well.")] = False,
    file: Annotated[
        Path | None, typer.Option(help="The file to add the line to; it is made if there is none. Default: stdout.")
    ] = None,
) -> None:
    """Make an API key: the key itself goes to stderr, once; its line goes to a file for POLYTASK_API_KEYS_FILE, or to stdout."""
    from polytask.service.config.api_keys import KeyLineError, add_key_line, new_key

    try:
        secret, line = new_key(name, admin=admin)
    except KeyLineError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    if file is not None:
        # First, so that no key is shown that is in no file.
        try:
            add_key_line(file, line)
        except KeyLineError as error:
            _fail(StartupError(f"{file} {error}"))
    typer.echo(f"the key, shown only now and not stored: {secret}", err=True)
    typer.echo(line if file is None else f"{name} is in {file}", err=file is not None)


@app.command("predict")
def predict(
    task: Annotated[str, typer.Argument(help="The task to ask.")],
    source: Annotated[Path, typer.Option("--input", help="JSON lines, an input each; - for stdin.")],
    target: Annotated[Path, typer.Option("--output", help="The file of answers, a line for each input; - for stdout.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:8000",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs in a request.")] = 32,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    options: Annotated[str | None, typer.Option(help="The request's `options`, as a JSON object.")] = None,
    deadline_s: Annotated[float, typer.Option(min=0.001, help="Seconds for a request with all its tries.")] = 300.0,
) -> None:
    """Answer a file of inputs with a running service. The same command resumes a job that was stopped or killed.

    The key is read from POLYTASK_API_KEY. Exit code 0: all lines have answers; 1: some lines are errors, listed on stderr;
    2: the job cannot be done; 3: the service gave no answer, and the same command resumes.
    """
    from importlib.util import find_spec

    # In a clone the folder of the client is found, too, but not what it needs.
    if not (find_spec("polytask_client") and find_spec("httpx")):
        _fail(StartupError("predicting needs the client: pip install 'polytask[client]'"))
    from polytask_client import Client, InvalidArgument, PolytaskError, Retries
    from polytask_client.job import JobError, plan, read_options, run

    try:
        with Client(url, deadline_s=deadline_s, retries=Retries(max_tries=None)) as client:
            job = plan(client, task, read_options(options), batch_size, concurrency)
            outcome = run(client, job, source, target)
    except InvalidArgument as error:
        _fail(error)
    except PolytaskError as error:  # before OSError, as OutOfTime is both
        typer.secho(f"stopped: {'; '.join([str(error), *getattr(error, '__notes__', [])])}", fg="red", err=True)
        sys.exit(3)
    except (JobError, ValueError, OSError) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    typer.echo(f"{outcome.lines} lines, {outcome.failed} of them errors, in {target}", err=True)
    sys.exit(1 if outcome.failed else 0)


@app.command("train")
def train(
    recipe: Annotated[Path, typer.Argument(help="The TOML recipe of the run.")],
    data: Annotated[Path, typer.Option(help="The folder that the recipe's files are relative to.")] = Path(),
    store: Store = DEFAULT_STORE,
    run: Annotated[
        Path | None,
        # torchrun would take --run for one of its own options.
        typer.Option("--run-folder", "--run", help="The folder to keep the run in (default: runs/RECIPE'S NAME)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in that folder.")] = False,
) -> None:
    """Train a network by a recipe and publish it as a new version.

    SIGTERM and SIGINT stop the run between two steps and save a checkpoint; --resume continues exactly there. With
    `torchrun --nproc_per_node N --no-python polytask train …` N processes share each batch.
    """
    from polytask.training.data.issues import DataError
    from polytask.training.loop.interrupts import Interrupted
    from polytask.training.loop.trainer import NonFiniteLossError
    from polytask.training.pipeline import run_recipe
    from polytask.training.recipes.schema import RecipeError
    from polytask.training.runs.checkpoints import RunError

    try:
        run_recipe(recipe, data, store, _console(), run, resume=resume)
    except (RecipeError, DataError, RunError, NonFiniteLossError) as error:
        _fail(error)
    except Interrupted as stopped:
        if str(stopped):
            typer.echo(stopped, err=True)
        sys.exit(128 + stopped.number)


@app.command("evaluate")
def evaluate(
    reference: Reference,
    data: Annotated[Path, typer.Option(help="The data folder of the recipe that made the version.")] = Path(),
    store: Store = DEFAULT_STORE,
) -> None:
    """Measure a version again on its validation data."""
    from polytask.model_store.versions import resolve
    from polytask.training.data.issues import DataError
    from polytask.training.pipeline import evaluate_version

    try:
        evaluate_version(resolve(store, reference), data, _console())
    except DataError as error:
        _fail(error)


@app.command("export")
def export(
    reference: Reference,
    data: Annotated[
        Path | None,
        typer.Option(help="The data folder of the recipe that made the version. Without it: float32 only, no losses."),
    ] = None,
    store: Store = DEFAULT_STORE,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a forward; 0 for the cores it may use.")] = 0,
) -> None:
    """Export a version's network for faster backends on the CPU, and measure which one to serve it with."""
    from polytask.model_store.versions import resolve
    from polytask.service.backends.selection import is_installed, open_backend
    from polytask.service.config.cpu_cores import available_cores

    missing = [package for package in ("onnx", "onnxscript", "onnxruntime", "sklearn") if not is_installed(package)]
    if missing:
        _fail(StartupError(f"exporting needs {', '.join(missing)}: pip install 'polytask[export]'"))
    from polytask.training.data.issues import DataError
    from polytask.training.export.export import Backends, export_version

    def run(backend: str, precision: str, file: Path | None, network: Network, threads: int) -> RunBatch:
        return open_backend(backend, precision, file, network, threads).run

    backends = Backends(is_installed, run, threads or available_cores())
    try:
        _print(f"exported to {export_version(resolve(store, reference), data, backends, _console())}")
    except DataError as error:
        _fail(error)


@app.command("report")
def report(folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="The folder of a run.")]) -> None:
    """Write report.html of a run again, finished or not."""
    from polytask.training.report.write_report import write_report
    from polytask.training.runs.run_reader import RunFolderError

    try:
        _print(write_report(folder))
    except RunFolderError as error:
        _fail(error)


@models.command("list")
def list_versions(store: Store = DEFAULT_STORE) -> None:
    """Show all versions in the store."""
    from rich.filesize import decimal

    from polytask.model_store.manifest import read_manifest
    from polytask.model_store.reading import reading
    from polytask.model_store.versions import current, names, versions

    table = _table("name", "version", "current", "tasks", "size", "created")
    for name in names(store):
        numbers: list[int] = []
        promoted = None
        try:
            numbers = versions(store, name)
            promoted = current(store, name)
        except StoreError as error:
            table.add_row(name, "", "", f"broken: {error.problem}", "", "")
        for number in numbers:
            folder, mark = store / name / str(number), "*" if number == promoted else ""
            try:
                manifest = read_manifest(folder)
                with reading(folder):
                    size = decimal(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))
            except StoreError as error:
                table.add_row(name, str(number), mark, f"broken: {error.problem}", "", "")
                continue
            tasks = ", ".join(task.name for task in manifest.tasks)
            table.add_row(name, str(number), mark, tasks, size, str(manifest.provenance.get("created", "")))
    _print(table if table.row_count else f"{store} has no versions")


@models.command("show")
def show_version(reference: Reference, store: Store = DEFAULT_STORE) -> None:
    """Show what a version is: its network, tasks, metrics and origin."""
    from polytask.model_store.manifest import read_manifest
    from polytask.model_store.versions import resolve

    manifest = read_manifest(resolve(store, reference))
    network = manifest.network
    table = _table("task", "kind", "labels", "tokens", "metric", "validation", "baseline", *manifest.references)
    for task in manifest.tasks:
        table.add_row(*_task_cells(manifest, task))
    _print(
        f"{manifest.name}/{manifest.version}",
        f"network: {network.num_layers} layers of width {network.hidden_size}, {network.num_heads} heads, "
        f"{network.vocab_size} word pieces, rows of up to {network.max_length} tokens",
        f"base: {manifest.base.name} (sha256 {manifest.base.sha256})"
        if manifest.base
        else "base: none, self-contained",
        *([] if manifest.parameters is None else [str(manifest.parameters)]),
        table,
        f"provenance: {json.dumps(manifest.provenance, indent=2, ensure_ascii=False)}",
    )


@models.command("copy")
def copy_version(
    reference: Reference,
    name: Annotated[str, typer.Argument(metavar="NEW_NAME", help="The name of the copy; it gets the next number.")],
    store: Store = DEFAULT_STORE,
    target: Annotated[Path | None, typer.Option("--to", help="The store to copy to (default: the same).")] = None,
) -> None:
    """Copy a version under another name, or to another store: its files, exports and origin."""
    from polytask.model_store.save import copy
    from polytask.model_store.versions import resolve

    copied = copy(resolve(store, reference), target or store, name)
    _print(f"copied to {copied.parent.name}/{copied.name}")


@models.command("promote")
def promote_version(
    reference: Annotated[str, typer.Argument(metavar="NAME/VERSION")], store: Store = DEFAULT_STORE
) -> None:
    """Make a version the current one of its name."""
    from polytask.model_store.versions import parse_reference, promote

    name, number = parse_reference(reference)
    if number is None:
        raise typer.BadParameter(f"say which version of {name}: {name}/VERSION", param_hint="NAME/VERSION")
    promote(store, name, number)
    _print(f"{name}: version {number} is current")


@models.command("rollback")
def roll_back(name: str, store: Store = DEFAULT_STORE) -> None:
    """Make the version that was current before the current one again."""
    from polytask.model_store.versions import rollback

    _print(f"{name}: version {rollback(store, name)} is current")


@models.command("verify")
def verify_versions(reference: Annotated[str | None, typer.Argument()] = None, store: Store = DEFAULT_STORE) -> None:
    """Check all that the service checks at loading, of one version or of all. Exit code 1 if one fails."""
    from polytask.model_store.versions import names, resolve

    if reference is not None:
        failed = not _verify(resolve(store, reference))
    else:
        failed = any([not _verify_name(store, name) for name in names(store)])  # noqa: C419, all are shown
    if failed:
        raise typer.Exit(1)


@tasks.command("tune")
def tune_tasks(
    reference: Reference,
    names: Annotated[list[str], typer.Argument(metavar="TASK...", help="The tasks to tune, one after the other.")],
    data: Annotated[Path, typer.Option(help="The data folder of the recipe that made the version.")] = Path(),
    store: Store = DEFAULT_STORE,
) -> None:
    """Tune tasks of a version alone and publish the next version, if one of them got better.

    The settings are those of `[second_stage]` in the version's recipe. Exit code 1: no task got better by more than one
    standard error, and nothing is published.
    """
    from polytask.model_store.versions import resolve
    from polytask.training.data.issues import DataError
    from polytask.training.pipeline import published_line
    from polytask.training.tuning.tune_version import UnknownTask, tune_version

    try:
        version = tune_version(resolve(store, reference), names, data, store, _console())
    except (DataError, UnknownTask) as error:
        _fail(error)
    if version is None:
        typer.echo("no task got better by more than one standard error; nothing is published", err=True)
        sys.exit(1)
    _print(published_line(version))


def _verify_name(store: Path, name: str) -> bool:
    """Shows for each version of a checkpoint whether it can be served. Returns whether all can."""
    from polytask.model_store.versions import current, resolve, versions

    numbers: list[int] = []
    good = True
    try:
        numbers = versions(store, name)
        if current(store, name) is not None:
            resolve(store, name)
    except StoreError as error:
        good = False
        _print(f"FAILED  {name}: {error}")
    return all([good, *(_verify(store / name / str(number)) for number in numbers)])


def _verify(folder: Path) -> bool:
    from polytask.model_store.load import verify
    from polytask.model_store.manifest import tasks_without_golden

    title = f"{folder.parent.name}/{folder.name}"
    try:
        unchecked = tasks_without_golden(verify(folder))
    except StoreError as error:
        _print(f"FAILED  {title}: {error}")
        return False
    warning = f" (no golden example, so answers are never checked: {', '.join(unchecked)})" if unchecked else ""
    _print(f"ok      {title}{warning}")
    return True


def _task_cells(manifest: Manifest, task: Task) -> tuple[str, ...]:
    metrics = manifest.metrics.get(task.name, {})
    others = [own.get(task.name, {}) for own in (manifest.baselines, *manifest.references.values())]
    return (
        task.name,
        task.kind.value,
        str(len(task.labels) or ""),
        str(task.max_length),
        "\n".join(metrics),
        "\n".join(f"{value:.4f}" for value in metrics.values()),
        *("\n".join(f"{own[metric]:.4f}" if metric in own else "" for metric in metrics) for own in others),
    )


def _table(*headings: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _print(*parts: object) -> None:
    # Lines are not folded, as a program may read them.
    _console().print(*parts, sep="\n", highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    # Names of labels and files are text, whatever brackets and colons they have.
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, emoji=False)
