"""The embedded checkpoint: complete, small, better than trivial, and with the answers that it was published with."""

from __future__ import annotations

from typing import Any

import pytest

from polytask.model.answers import AnswerOptions, answer
from polytask.model.encoding import Input, InputEncoder
from polytask.model.tasks import Kind
from polytask.model.truncation import Truncation
from polytask.model.window_merging import WindowScore
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.load import Checkpoint, load
from polytask.model_store.versions import resolve
from polytask.service.backends.forward import Forward
from polytask.service.backends.torch_cpu import TorchBackend
from polytask.service.engine.golden_check import TOLERANCES, check_goldens
from polytask.training.evaluation.evaluate import row_logits

MAX_BYTES = 25_000_000
PROMISED = {
    "intent": ("accuracy", 0.88),
    "toxicity": ("accuracy", 0.88),
    "similarity": ("pearson_spearman", 0.83),
    "entailment": ("accuracy", 0.72),
}


@pytest.fixture(scope="module")
def demo() -> Checkpoint:
    """The version that `make serve` serves; loading it verifies every hash."""
    return load(resolve(DEFAULT_STORE, "demo"))


def test_the_demo_has_every_kind_of_task(demo: Checkpoint) -> None:
    """Nine tasks cover all seven kinds, in one delta of at most 25 MB over the backbone."""
    assert len(demo.manifest.tasks) == 9
    assert {task.kind for task in demo.manifest.tasks} == set(Kind)
    assert demo.manifest.base is not None
    assert sum(file.stat().st_size for file in resolve(DEFAULT_STORE, "demo").iterdir()) <= MAX_BYTES


def test_the_demo_has_the_promised_metrics(demo: Checkpoint) -> None:
    """The four promised figures are reached, and every main metric is above its trivial baseline."""
    for name, (metric, least) in PROMISED.items():
        assert demo.manifest.metrics[name][metric] >= least
    for task in demo.manifest.tasks:
        main = next(iter(demo.manifest.metrics[task.name]))
        assert demo.manifest.metrics[task.name][main] > demo.manifest.baselines[task.name][main] + 0.05


def test_the_card_of_the_demo_agrees_with_its_manifest(demo: Checkpoint) -> None:
    """The card's row of each task has the main metric and baseline of the manifest, and names a licence."""
    card = (resolve(DEFAULT_STORE, "demo") / "card.md").read_text(encoding="utf-8")
    for task in demo.manifest.tasks:
        row = next(line for line in card.splitlines() if line.startswith(f"| `{task.name}` |"))
        main, value = next(iter(demo.manifest.metrics[task.name].items()))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2:5] == [main, f"{value:.4f}", f"{demo.manifest.baselines[task.name][main]:.4f}"]
        assert cells[-1]


def test_the_demo_repeats_its_golden_answers(demo: Checkpoint) -> None:
    """The golden examples of every task get the answers that are stored with them."""
    tasks, encoder = demo.manifest.tasks, InputEncoder(demo.tokenizer)
    assert {golden.task for golden in demo.manifest.goldens} == {task.name for task in tasks}
    forward = Forward(TorchBackend(demo.network), tasks, encoder.pad_id)
    check_goldens(forward, tasks, encoder, demo.manifest.goldens, TOLERANCES["float32"])


ANSWER = "The first public railway opened in 1825 between two towns in the north of England."
THANKS, INSULT = "Thank you so much, this made my whole week!", "You are a stupid bitch and everybody hates you."
PLANTS = ("Roses", "Beans", "Lilies", "Apple trees", "Tomatoes", "Herbs", "Ferns", "Tulips")
HABITS = (
    "need water on dry days",
    "grow along the southern wall",
    "are cut back in the autumn",
    "flower for most of June",
    "stand beside the old shed",
)
GARDEN = " ".join(f"{plant} {habit}." for habit in HABITS for plant in PLANTS)


def _in_windows(demo: Checkpoint, name: str, item: Input, windows: WindowScore | None = None) -> Any:
    """The answer of a task to a text that is read in windows."""
    encoder, tasks = InputEncoder(demo.tokenizer), demo.network.tasks
    task_id = [task.name for task in tasks].index(name)
    (rows,) = encoder.encode(tasks[task_id], [item], Truncation.WINDOW)
    logits = row_logits(demo.network, rows, task_id, encoder.pad_id)
    return answer(tasks[task_id], item, rows, logits, AnswerOptions(windows=windows))


def test_windows_score_as_the_page_of_options_says(demo: Checkpoint) -> None:
    """The figures of docs/api.md for what matters in one place, alone and behind forty sentences about a garden."""
    item = Input("When did the first railway open?", candidates=(ANSWER, f"{GARDEN} {ANSWER}"))
    for windows, expected in ((None, [0.99, 0.90]), (WindowScore.MEAN, [0.99, 0.12])):
        ranking = _in_windows(demo, "relevance", item, windows).ranking
        assert [one.score for one in sorted(ranking, key=lambda one: one.index)] == pytest.approx(expected, abs=0.01)
    for windows, gratitude in ((None, 0.02), (WindowScore.BEST, 0.94)):
        found = _in_windows(demo, "emotions", Input(f"{GARDEN} {THANKS}"), windows)
        assert found.scores["gratitude"] == pytest.approx(gratitude, abs=0.01)
    for text, offensive in ((INSULT, 0.97), (f"{GARDEN} {INSULT}", 0.23)):
        found = _in_windows(demo, "toxicity", Input(text))
        assert found.scores["offensive_language"] == pytest.approx(offensive, abs=0.01)
