"""Command line: `polytask --version`, `serve`, `predict`, `export`, `key` and `models`."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from polytask import cli
from polytask.model.network import parameter_counts
from polytask.model_store.exports import read_exports
from polytask.model_store.save import save
from polytask.model_store.versions import current
from polytask.service.config.api_keys import Keys, parse_keys
from tests.model_store.support import stores
from tests.support import tiny

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with two versions of `demo`, the first of them current."""
    for _ in range(2):
        save(tmp_path, "demo", stores.contents(tiny.network()))
    cli.promote_version("demo/1", tmp_path)
    return tmp_path


@pytest.fixture
def run(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `polytask models ...` on the store; returns exit code, stdout and stderr."""
    monkeypatch.setenv("POLYTASK_STORE", str(store))

    def run_models(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polytask", "models", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run_models


def test_list_shows_every_version(run: Run) -> None:
    """Each version has a line with its tasks; the current one is marked."""
    code, out, _ = run("list")
    lines = [line.split() for line in out.splitlines() if line.strip().startswith("demo")]
    assert code == 0
    assert [line[:3] for line in lines] == [["demo", "1", "*"], ["demo", "2", "mood,"]]
    assert all(task.name in out for task in tiny.tasks())


def test_list_shows_a_broken_version_as_broken(run: Run, store: Path) -> None:
    """One damaged manifest does not hide the other versions."""
    stores.flip_byte(store / "demo" / "2" / "manifest.json", 0)
    code, out, _ = run("list")
    assert code == 0
    assert "broken: is not JSON" in out
    assert "*" in out


def test_list_of_an_empty_store_says_so(run: Run, tmp_path: Path) -> None:
    """An empty store is not an error."""
    (tmp_path / "empty").mkdir()
    code, out, _ = run("list", "--store", str(tmp_path / "empty"))
    assert code == 0
    assert "has no versions" in out


def test_show_has_each_task_beside_its_metrics(run: Run) -> None:
    """A task's line gives kind, number of labels, length, and each metric beside its baseline."""
    code, out, _ = run("show", "demo")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["mood", "classification", "3", "32", "accuracy", "0.9000", "0.4000"] in lines
    assert ["f1", "0.8000", "0.3000"] in lines
    assert "demo/1" in out
    assert "self-contained" in out
    assert str(parameter_counts(tiny.network())) in out
    assert '"seed": 1' in out


def test_promote_and_roll_back(run: Run, store: Path) -> None:
    """Promotion moves the mark and rolling back returns it."""
    assert run("promote", "demo/2")[0] == 0
    assert current(store, "demo") == 2
    assert run("rollback", "demo")[:2] == (0, "demo: version 1 is current\n")
    assert current(store, "demo") == 1


def test_promote_needs_a_version(run: Run) -> None:
    """Promoting a name alone is a usage error, as its version would be a guess."""
    code, _, err = run("promote", "demo")
    assert code == 2
    assert "demo/VERSION" in err


def test_verify_checks_one_or_all(run: Run, store: Path) -> None:
    """Each version has a line; a failed one makes the exit code 1 and does not stop the others."""
    unchecked = (
        "no golden example, so answers are never checked: topics, closeness, relevance, choice, entities, answer"
    )
    assert run("verify") == (0, f"ok      demo/1 ({unchecked})\nok      demo/2 ({unchecked})\n", "")
    stores.flip_byte(store / "demo" / "1" / "weights.safetensors", -1)
    code, out, _ = run("verify")
    first, second = out.splitlines()
    assert code == 1
    assert first.startswith(f"FAILED  demo/1: {store}/demo/1/weights.safetensors: has sha256")
    assert second.startswith("ok      demo/2")
    assert run("verify", "demo/2")[0] == 0
    assert run("verify", "demo")[0] == 1


def test_verify_and_list_go_on_after_what_cannot_be_read(run: Run, store: Path) -> None:
    """A broken link, a pointer that is not one, a copy under another number and bad exports have a line each."""
    stores.write_exports(store / "demo" / "1")
    stores.overwrite(store / "demo" / "1" / "exports" / "int8.onnx", b"another graph")
    shutil.copytree(store / "demo" / "2", store / "demo" / "7")
    (store / "demo" / "9").symlink_to("nowhere")
    (store / "more" / "1").mkdir(parents=True)
    stores.overwrite(store / "demo" / "current.json", b"[" * 100_000)
    code, out, _ = run("verify")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["FAILED", "demo:"],
        ["FAILED", "demo/1:"],
        ["ok", "demo/2"],
        ["FAILED", "demo/7:"],
        ["FAILED", "demo/9:"],
        ["FAILED", "more/1:"],
    ]
    assert f"{store}/demo/1/exports/int8.onnx: has sha256" in out
    code, out, _ = run("list")
    assert code == 0
    assert out.count("broken") == 4
    assert "this folder is demo/7, but its manifest says demo/2" in out


def test_copy_gives_a_version_another_name_or_store(run: Run, store: Path, tmp_path: Path) -> None:
    """A copy is a version of its own with the exports and the origin of the first, in this store or in another one."""
    stores.write_exports(store / "demo" / "1")
    assert run("copy", "demo/1", "shop") == (0, "copied to shop/1\n", "")
    assert run("copy", "demo/1", "demo", "--to", str(tmp_path / "other")) == (0, "copied to demo/1\n", "")
    assert run("copy", "demo", "demo") == (0, "copied to demo/3\n", "")
    assert run("verify")[0] == run("verify", "--store", str(tmp_path / "other"))[0] == 0
    assert '"copied_from": "demo/1"' in run("show", "shop/1")[1]
    found = read_exports(store / "shop" / "1", tiny.tasks())
    assert found is not None
    assert found[1].version == "shop/1"
    stores.flip_byte(store / "demo" / "2" / "card.md", 0)
    code, _, err = run("copy", "demo/2", "shop")
    assert (code, "card.md: has sha256" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["show", "nobody"], "the store has: demo"),
        (["show", "demo/9"], "demo has: 1, 2"),
        (["verify", "demo/9"], "demo has: 1, 2"),
        (["rollback", "demo"], "no other version was current before"),
        (["promote", "../x/1"], "not a version"),
        (["list", "--store", "nowhere"], "no such folder"),
    ],
)
def test_a_store_error_is_one_line(run: Run, arguments: list[str], named: str) -> None:
    """An error in the store or the reference is one line on stderr, with exit code 2 and no traceback."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_text_of_a_manifest_is_not_markup(run: Run, store: Path) -> None:
    """Square brackets in provenance are shown unchanged."""
    version = store / "demo" / "1"
    stores.rewrite_manifest(version, lambda fields: fields["provenance"].update(note="[red]a[/blue]"))
    assert "[red]a[/blue]" in run("show", "demo/1")[1]


def test_help_needs_no_torch() -> None:
    """Showing the help imports neither torch nor any of the parts."""
    code = (
        "import sys; from polytask import cli; sys.argv = ['polytask', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: print(sorted({'torch', 'safetensors', 'tokenizers'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[1]
    finished = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "[]"
    assert "models" in finished.stdout


def test_the_version_needs_no_torch() -> None:
    """`polytask --version` names the releases of polytask and torch, without importing torch."""
    code = (
        "import sys; from polytask import cli; sys.argv = ['polytask', '--version']\n"
        "try: cli.main()\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    finished = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines() == [f"polytask {version('polytask')} (torch {version('torch')})", "False"]


@pytest.mark.parametrize("processes", [(), ("--frontends", "1")])
def test_serve_logs_a_former_name_as_its_log_is_formatted(processes: tuple[str, ...], tmp_path: Path) -> None:
    """The warning about a former name is a JSON line like all others, and comes once."""
    serve = ["serve", "--port", "0", "--store", str(tmp_path), "--lanes", "{}", *processes]
    ended = subprocess.run([sys.executable, "-m", "polytask", *serve], stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    warning, *others = map(json.loads, ended.stderr.splitlines())
    assert (warning["level"], warning["process"]) == ("warning", "supervisor" if processes else "service")
    assert warning["event"] == "--lanes is now called --task-policies; the former name still works"
    assert "former name" not in str(others)


@pytest.mark.parametrize("missing", ["polytask_client", "httpx"])
def test_predict_without_the_client_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without polytask-client or its HTTP library, `polytask predict` names the extra that brings both. Exit code 2."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find_spec(name))
    monkeypatch.setattr(sys, "argv", ["polytask", "predict", "mood", "--input", "-", "--output", "-"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: predicting needs the client: pip install 'polytask[client]'\n"


@pytest.mark.usefixtures("untouched")
def test_export_says_what_it_wrote(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`polytask export` prints a line for each way of running the version, and where the files are."""
    monkeypatch.setattr(sys, "argv", ["polytask", "export", "demo/2", "--store", str(store), "--threads", "1"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out = " ".join(capsys.readouterr().out.split())
    assert not stopped.value.code
    assert "onnxruntime-float32" in out
    assert f"exported to {store / 'demo' / '2' / 'exports'}" in out


def test_a_key_is_made_with_its_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`polytask key` writes the key's line to stdout, so that `>> FILE` takes it alone, and the key to stderr."""
    monkeypatch.setattr(sys, "argv", ["polytask", "key", "ops", "--admin"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    assert not stopped.value.code
    (key,) = parse_keys(captured.out)
    assert key.name == "ops"
    assert key.admin
    assert Keys([key]).find(captured.err.split()[-1].encode()) == key


def test_a_key_goes_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --file the line goes into the file alone; where that cannot be written, no key is shown."""
    file = tmp_path / "keys.toml"
    for path, code in ((file, 0), (tmp_path / "missing" / "keys.toml", 2)):
        monkeypatch.setattr(sys, "argv", ["polytask", "key", "shop", "--file", str(path)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert (stopped.value.code or 0) == code
        captured = capsys.readouterr()
        assert not captured.out
        assert ("polytask_" in captured.err) is (code == 0)
    (key,) = parse_keys(file.read_text())
    assert key.name == "shop"


@pytest.mark.parametrize("processes", [[], ["--frontends", "1"]])
def test_no_service_opens_for_want_of_keys(
    processes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an empty file of keys neither one process nor several start, and the message has the variable and the remedy."""
    (tmp_path / "keys.toml").touch()
    flags = ["--port", "0", "--api-keys-file", str(tmp_path / "keys.toml")]
    monkeypatch.setattr(sys, "argv", ["polytask", "serve", *flags, *processes])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "POLYTASK_API_KEYS_FILE has no keys: add the line that `polytask key NAME` prints" in capsys.readouterr().err


def test_a_key_needs_a_name_that_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid key name is refused with the allowed characters."""
    monkeypatch.setattr(sys, "argv", ["polytask", "key", "a b"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "a name has 1 to 64 letters, digits, _ and -" in capsys.readouterr().err
