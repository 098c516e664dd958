"""Version card: the tasks of a version with their scores, baselines and data, as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from polytask.model.tasks import Kind
from polytask.training.data.examples import TaskData
from polytask.training.data.statistics import measure_agreement
from polytask.training.data.word_rules import describe
from polytask.training.evaluation.baselines import DESCRIPTIONS
from polytask.training.evaluation.diagnostics import COVERED_CONFIDENCES
from polytask.training.evaluation.metrics import Scores
from polytask.training.evaluation.paired_gain import PairedGain
from polytask.training.publishing.calibration_effect import CalibrationEffect
from polytask.training.publishing.tuned_card import gains_section
from polytask.training.recipes.schema import Recipe

_REFERENCES = """
TF-IDF (of words and characters) and frozen (the untrained backbone's states) are linear models by scikit-learn, which
learn from the same training examples, or of large tasks from a part of them."""


def render_card(
    recipe: Recipe,
    data: Sequence[TaskData],
    scores: Mapping[str, Scores],
    baselines: Mapping[str, Scores],
    ending: str,
    warnings: Mapping[str, str],
    effects: Mapping[str, CalibrationEffect],
    gains: Mapping[str, PairedGain] = MappingProxyType({}),
    references: Mapping[str, Mapping[str, Scores]] = MappingProxyType({}),
) -> str:
    """The card as Markdown. `scores`, `baselines` and each of `references`: values by task and metric, on validation data.

    `ending`: how the training ended. By task: `warnings`, what is wrong with it; `effects` of calibration; `gains` of the
    second stage.
    """
    bad_rows = ", ".join(f"`{task_data.task.name}` {task_data.bad_rows:,}" for task_data in data if task_data.bad_rows)
    warning_lines = "".join(f"\nWarning: `{task}` {warning}.\n" for task, warning in warnings.items())
    bad_rows_line = f"\nRows that are no valid records were left out: {bad_rows}.\n" if bad_rows else ""
    rows = "\n".join(_row(task_data, scores, {"trivial": baselines, **references}) for task_data in data)
    headings = "".join(f" {name} |" for name in references)
    return f"""# {recipe.name}

{len(data)} tasks in one checkpoint on the backbone {recipe.backbone.name}.

Every figure is measured on the validation split with the weights as they are stored; the trivial baseline beside it
is learned from the training split alone. Class bias, temperature and thresholds are set on training examples, where there are
enough on such that no update has seen.{_REFERENCES if references else ""}

| task | kind | metric | validation | trivial baseline |{headings} which is trivial | train / validation | data | licence |
|---|---|---|---:|---:|{"---:|" * len(references)}---|---:|---|---|
{rows}
{_calibration_section(effects)}{_coverage_section(effects)}{_words_section(data, scores)}{gains_section(gains)}{bad_rows_line}{warning_lines}
{ending[0].upper()}{ending[1:]} (sampler: {recipe.sampler.name}, seed {recipe.seed}). The whole
recipe, the hashes of the data, the code's commit and further metrics are in `manifest.json`.
"""


def _calibration_section(effects: Mapping[str, CalibrationEffect]) -> str:
    """What class bias and temperature have changed; empty without tasks that have probabilities."""
    rows = [_calibration_row(task, effect) for task, effect in effects.items() if effect.ece is not None]
    if not rows:
        return ""
    return """
Probabilities are divided by a temperature, and labels that were said too rarely have a class bias where that pays. The expected
calibration error (ECE) is the mean distance between a score and the share of such answers that are right:

| task | without class bias | with it | temperature | ECE without both | ECE |
|---|---:|---:|---:|---:|---:|
""" + "".join(f"{row}\n" for row in rows)


def _calibration_row(task: str, effect: CalibrationEffect) -> str:
    biased = [f"{effect.score_before:.4f}", f"{effect.score:.4f}"] if effect.class_bias else ["", "none"]
    cells = (f"`{task}`", *biased, f"{effect.temperature:.2f}", f"{effect.ece_before:.4f}", f"{effect.ece:.4f}")
    return "| " + " | ".join(cells) + " |"


def _coverage_section(effects: Mapping[str, CalibrationEffect]) -> str:
    """What a `min_confidence` costs and gains; empty without classifications."""
    rows = [_coverage_row(task, effect) for task, effect in effects.items() if effect.coverage]
    if not rows:
        return ""
    confidences = " | ".join(f"{confidence} or more" for confidence in COVERED_CONFIDENCES)
    return f"""
With `min_confidence` a classification whose likeliest label has a lower probability says none of these. The share of answers that
are left, and how many of those are right:

| task | {confidences} |
|---|{"---:|" * len(COVERED_CONFIDENCES)}
""" + "".join(f"{row}\n" for row in rows)


def _coverage_row(task: str, effect: CalibrationEffect) -> str:
    shares = [
        f"{each['coverage']:.1%}" + ("" if each["accuracy"] is None else f", {each['accuracy']:.1%} right")
        for each in effect.coverage
    ]
    return "| " + " | ".join([f"`{task}`", *shares]) + " |"


def _words_section(data: Sequence[TaskData], scores: Mapping[str, Scores]) -> str:
    """How well tagging tasks do on running text, in which the words must be found first; empty without such tasks."""
    rows = [_words_row(each, scores[each.task.name]) for each in data if each.task.kind is Kind.TAGGING]
    if not rows:
        return ""
    return """
Texts to be tagged are split into words as the training data are, as far as a rule can. In the validation data, with
their words joined as people write them:

| task | words are split by the rule | words found | on given words | text_f1, on running text |
|---|---|---:|---:|---:|
""" + "".join(f"{row}\n" for row in rows)


def _words_row(task_data: TaskData, scores: Scores) -> str:
    metric = next(iter(scores))
    cells = (
        f"`{task_data.task.name}`",
        describe(task_data.task.word_rule),
        f"{measure_agreement(task_data):.1%}",
        f"{metric} {scores[metric]:.4f}",
        f"{scores['text_f1']:.4f}",
    )
    return "| " + " | ".join(cells) + " |"


def _row(task_data: TaskData, scores: Mapping[str, Scores], others: Mapping[str, Mapping[str, Scores]]) -> str:
    task = task_data.task.name
    metric, score = next(iter(scores[task].items()))
    sizes = f"{len(task_data.train):,} / {next(iter(task_data.splits.values())):,}"  # the main metric is over the first split
    cells = (
        f"`{task_data.task.name}`",
        task_data.task.kind,
        metric,
        f"{score:.4f}",
        *(f"{own[task][metric]:.4f}" if task in own else "-" for own in others.values()),
        DESCRIPTIONS[task_data.task.kind],
        sizes,
        task_data.config.source,
        task_data.config.licence,
    )
    return "| " + " | ".join(cells) + " |"
