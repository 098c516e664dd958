"""Manifest: what is written is read back, and everything else is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.answers import ClassificationAnswer, LabelScore, MultilabelAnswer, RankedCandidate, RankingAnswer
from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, ParameterCounts
from polytask.model.encoding import Input
from polytask.model.tasks import Kind
from polytask.model.words import WordRule, WordSplit
from polytask.model_store import DEFAULT_STORE
from polytask.model_store.errors import FileCorrupt, FormatTooNew, ManifestInvalid, NameMismatch, NotAVersion
from polytask.model_store.manifest import FORMAT, MANIFEST, Base, Golden, Manifest, from_json, read_manifest, to_json
from tests.model_store.support import stores
from tests.support import tiny

EMBEDDED = DEFAULT_STORE / "demo" / "1"
_PATH = Path("store/demo/1/manifest.json")
_FILES = {"weights.safetensors": "0" * 64, "tokenizer.json": "1" * 64, "card.md": "2" * 64}


def manifest() -> Manifest:
    """A manifest with something in every field."""
    return Manifest(
        name="demo",
        version=1,
        network=tiny.config(),
        tasks=tiny.tasks(),
        base=Base("sentence-transformers/all-MiniLM-L6-v2", "3" * 64),
        files=_FILES,
        metrics={"mood": {"accuracy": 0.9}},
        baselines={"mood": {"accuracy": 0.1}},
        goldens=(
            Golden("topics", Input("ça va"), asdict(MultilabelAnswer((LabelScore("cats", 0.5),), {"cats": 0.5}))),
            Golden("relevance", Input("q", candidates=("a",)), asdict(RankingAnswer((RankedCandidate(0, "a", 0.1),)))),
            Golden("entities", Input.from_words(["a", "cat"]), {"entities": ()}),
        ),
        provenance={"created": "2026-01-01", "nested": {"list": [1, None, 2.5]}},
        parameters=ParameterCounts(backbone=1000, conditional=100, heads=10, trainable=500),
    )


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    """The manifest's text after a change to its JSON."""
    parsed = json.loads(to_json(manifest()))
    change(parsed)
    return json.dumps(parsed)


def test_what_is_written_is_read_back() -> None:
    """Reading gives the written manifest, golden answers with their tuples included."""
    assert from_json(to_json(manifest()), _PATH) == manifest()


def test_a_self_contained_manifest_is_read_back() -> None:
    """A manifest without a base is read without one."""
    assert from_json(to_json(replace(manifest(), base=None)), _PATH).base is None


def test_the_text_is_stable_and_begins_with_the_format() -> None:
    """Writing a manifest that was read gives the same text, whose first key is the format."""
    text = to_json(manifest())
    assert to_json(from_json(text, _PATH)) == text
    assert next(iter(json.loads(text))) == "format"


def test_the_order_of_labels_survives() -> None:
    """Scores keep the order of their labels, which is not alphabetical."""
    golden = Golden("mood", Input("x"), asdict(ClassificationAnswer("a", 0.9, {"z": 0.1, "a": 0.9})))
    (read,) = from_json(to_json(replace(manifest(), goldens=(golden,))), _PATH).goldens
    assert list(read.answer["scores"]) == ["z", "a"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_to_the_bit(value: float) -> None:
    """Any finite score is read back exactly."""
    golden = Golden("closeness", Input("x", "y"), {"value": value})
    (read,) = from_json(to_json(replace(manifest(), goldens=(golden,))), _PATH).goldens
    assert read.answer["value"] == value


@pytest.mark.parametrize("key", [field.name for field in fields(Manifest)])
def test_a_missing_key_is_named(key: str) -> None:
    """A missing key is an error that names it."""
    with pytest.raises(ManifestInvalid, match=f"manifest.json: lacks key '{key}'"):
        from_json(changed(lambda parsed: parsed.pop(key)), _PATH)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda parsed: parsed.update(weigths=1), "unknown key 'weigths'"),
        (lambda parsed: parsed["network"].update(conditional_atention=[0]), "unknown key 'conditional_atention'"),
        (lambda parsed: parsed["network"].pop("max_length"), "'network' lacks key 'max_length'"),
        (lambda parsed: parsed["network"].update(num_heads=5), "'network': hidden_size 32 is not a multiple"),
        (lambda parsed: parsed["network"].update(pooling="max"), "'network.pooling': 'max' is not one of"),
        (lambda parsed: parsed["tasks"][0].update(kind="poetry"), r"'tasks\[0\].kind': 'poetry' is not one of"),
        (lambda parsed: parsed["tasks"][0].update(labels=["one"]), r"'tasks\[0\]': task 'mood'"),
        (lambda parsed: parsed["tasks"].append(parsed["tasks"][0]), "'mood' is listed twice"),
        (lambda parsed: parsed.update(tasks=[]), "at least one task"),
        (lambda parsed: parsed.update(version="1"), "'version' must be a whole number"),
        (lambda parsed: parsed.update(format=0), "'format': 0 was never in use"),
        (lambda parsed: parsed.update(format="1"), "'format' must be a whole number"),
        (lambda parsed: parsed["metrics"].update(poetry={}), "'metrics' names tasks that are not in 'tasks': poetry"),
        (lambda parsed: parsed["goldens"][0].update(task="poetry"), "'goldens' names tasks .*: poetry"),
        (
            lambda parsed: parsed["tasks"][1].update(thresholds=[float("nan")] * 3),
            r"thresholds\[0\]' is not a finite number",
        ),
        (lambda parsed: parsed["tasks"][1].update(thresholds=[1e308] * 3), "a threshold is a probability"),
        (lambda parsed: parsed["tasks"][2].update(value_range=[0, float("inf")]), r"value_range\[1\]' is not a finite"),
        (lambda parsed: parsed["tasks"][2].update(value_range=[-1e308, 1e308]), "value_range must rise, and be finite"),
        (lambda parsed: parsed["network"].update(layer_norm_eps=-1.0), "layer_norm_eps must be above 0"),
        (
            lambda parsed: parsed["metrics"]["mood"].update(accuracy=float("nan")),
            "'metrics.mood.accuracy' is not a finite",
        ),
        (
            lambda parsed: parsed["goldens"][0].update(answer={"value": 1.0}),
            "'topics': its answer is not one of a multilabel",
        ),
        (
            lambda parsed: parsed["goldens"][1]["input"].update(text_pair="b"),
            "'relevance': its input is not one of a ranking",
        ),
        (lambda parsed: parsed["goldens"][2]["input"].update(words=[[0, 99]]), "'entities': its input is not one of"),
        (lambda parsed: parsed["files"].update({"a\0": "0"}), "not a file of the version's folder"),
        (lambda parsed: parsed["files"].pop("card.md"), "'files' lacks card.md"),
        (lambda parsed: parsed["files"].update({"../other": "0"}), "'files' names '../other', which is not a file"),
        (
            lambda parsed: parsed["files"].update({"/etc/passwd": "0"}),
            "'files' names '/etc/passwd', which is not a file",
        ),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], object], named: str) -> None:
    """An unknown key, a value of another type, or contradicting values are errors that name the key."""
    with pytest.raises(ManifestInvalid, match=named):
        from_json(changed(change), _PATH)


def _of_format_1(parsed: dict[str, Any]) -> None:
    """Removes the keys that format 1 does not have: switches of the network that have a default, and later ones."""
    _of_format_2(parsed)
    del parsed["parameters"]
    for key in (
        "conditional_pooling",
        "film_rank",
        "task_size",
        "alignment_form",
        "layer_norm_form",
        "bottleneck_form",
    ):
        del parsed["network"][key]
    for key in ("embedding_size", "relative_attention_buckets"):
        del parsed["network"][key]
    for task in parsed["tasks"]:
        del task["raw_output"]
    parsed["format"] = 1


def _of_format_2(parsed: dict[str, Any]) -> None:
    """Removes the keys that format 2 does not have."""
    for task in parsed["tasks"]:
        del task["max_answer_tokens"], task["words"]
    parsed["format"] = 2


def test_forms_are_read_back() -> None:
    """The forms of a network are written by name and read back."""
    network = replace(
        tiny.config(),
        alignment_form=AlignmentForm.MATRIX,
        layer_norm_form=LayerNormForm.BIAS_IN_SCALE,
        bottleneck_form=BottleneckForm.LADDER,
        film_rank=3,
    )
    text = to_json(replace(manifest(), network=network))
    assert json.loads(text)["network"]["layer_norm_form"] == "bias-in-scale"
    assert from_json(text, _PATH).network == network


def test_rules_for_words_are_read_back() -> None:
    """The rule for the words of a tagging task is read back, and a rule that is not known is named."""
    rule = WordRule(WordSplit.UNICODE, ("'s",), ("mr.", "王"))
    tasks = tuple(replace(task, words=rule) if task.kind is Kind.TAGGING else task for task in manifest().tasks)
    text = to_json(replace(manifest(), tasks=tasks))
    assert from_json(text, _PATH).tasks == tasks
    with pytest.raises(ManifestInvalid, match=r"words.*'lines' is not one of 'unicode'"):
        from_json(text.replace('"unicode"', '"lines"'), _PATH)


def test_format_1_is_read_with_what_is_new_at_its_default() -> None:
    """A manifest of format 1 is upgraded, and newer keys get the values that format 1 implied."""
    read = from_json(changed(_of_format_1), _PATH)
    assert read == replace(_with_short_answers(), parameters=None)
    assert read.format == FORMAT


def test_format_2_is_read_with_answers_of_thirty_tokens() -> None:
    """A manifest of format 2 is upgraded; the answers of its span tasks have at most 30 tokens, as they had."""
    read = from_json(changed(_of_format_2), _PATH)
    assert read == _with_short_answers()
    assert [task.max_answer_tokens for task in read.tasks if task.kind is Kind.SPAN] == [30]


def _with_short_answers() -> Manifest:
    tasks = manifest().tasks
    return replace(
        manifest(),
        tasks=tuple(replace(task, max_answer_tokens=30) if task.kind is Kind.SPAN else task for task in tasks),
    )


def test_the_embedded_checkpoint_has_rules_for_words() -> None:
    """The tagging task of the embedded checkpoint cuts off `'s`, as its training data do."""
    read = read_manifest(EMBEDDED)
    (rule,) = [task.word_rule for task in read.tasks if task.kind is Kind.TAGGING]
    text = "Maria Keller\u2019s brother"
    assert [text[start:end] for start, end in rule.words(text)] == ["Maria", "Keller", "\u2019s", "brother"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda parsed: parsed.update(weigths=1), "unknown key 'weigths'"),
        (lambda parsed: parsed["network"].update(film=1), "'network' has unknown key 'film'"),
        (lambda parsed: parsed["network"].pop("hidden_size"), "'network' lacks key 'hidden_size'"),
        (lambda parsed: parsed["tasks"][0].pop("max_length"), r"'tasks\[0\]' lacks key 'max_length'"),
        (lambda parsed: parsed.pop("goldens"), "lacks key 'goldens'"),
        (lambda parsed: parsed.update(network=3), "'network' must be an object"),
        (lambda parsed: parsed.update(tasks=[3]), r"'tasks\[0\]' must be an object"),
        (lambda parsed: parsed.update(tasks=3), "'tasks' must be a list"),
        (lambda parsed: parsed.update(format=True), "lacks key 'parameters'"),
    ],
)
def test_format_1_is_read_as_strictly(change: Callable[[dict[str, Any]], object], named: str) -> None:
    """In format 1 a missing or unknown key, apart from newer ones, is an error that names it."""
    parsed = json.loads(changed(_of_format_1))
    change(parsed)
    with pytest.raises(ManifestInvalid, match=named):
        from_json(json.dumps(parsed), _PATH)


def test_a_task_reads_shapes_only_if_the_network_does() -> None:
    """A task whose rows would name segments that the network lacks is refused."""
    parsed = json.loads(to_json(manifest()))
    task = next(each for each in parsed["tasks"] if each["kind"] == "tagging")
    task["word_shapes"] = True
    with pytest.raises(ManifestInvalid, match=r"reads word_shapes, but key 'network.word_shapes' is false"):
        from_json(json.dumps(parsed), _PATH)
    parsed["network"]["word_shapes"] = True
    assert from_json(json.dumps(parsed), _PATH).network.word_shapes


def test_this_format_needs_every_switch() -> None:
    """In this format every key of the network is required."""
    for field in fields(NetworkConfig):
        parsed = json.loads(to_json(manifest()))
        del parsed["network"][field.name]
        with pytest.raises(ManifestInvalid, match=f"'network' lacks key '{field.name}'"):
            from_json(json.dumps(parsed), _PATH)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\0", "[" * 100_000, '{"a":' * 100_000])
def test_other_text_is_no_manifest(text: str) -> None:
    """Text that is no JSON object is a ManifestInvalid."""
    with pytest.raises(ManifestInvalid):
        from_json(text, _PATH)


def test_a_newer_format_is_said_before_anything_else() -> None:
    """A manifest of a newer format is recognised by its format alone, whatever its other keys are."""
    with pytest.raises(FormatTooNew, match=f"format {FORMAT + 1}, this release reads format {FORMAT}"):
        from_json(json.dumps({"format": FORMAT + 1, "all": "different"}), _PATH)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_not_written(value: object) -> None:
    """Provenance that JSON cannot hold is refused at writing."""
    with pytest.raises(ManifestInvalid, match="cannot be written as JSON"):
        to_json(replace(manifest(), provenance={"value": value}))


def test_what_could_not_be_read_is_not_written() -> None:
    """A manifest that reading would refuse is refused at writing."""
    with pytest.raises(ManifestInvalid, match="'goldens' names tasks"):
        to_json(replace(manifest(), goldens=(Golden("poetry", Input("x"), {}),)))


def test_a_folder_without_a_manifest_is_no_version(tmp_path: Path) -> None:
    """An empty folder, and one that does not exist, are not versions."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotAVersion, match=MANIFEST):
            read_manifest(path)


@pytest.mark.parametrize("place", ["demo/7", "prod/1", "demo/01"])
def test_a_version_is_read_only_under_its_own_name_and_number(version: Path, place: str) -> None:
    """A copy in the folder of another name or number is refused with both, and with what to do."""
    copied = shutil.copytree(version, version.parents[1] / place)
    with pytest.raises(NameMismatch, match=f"this folder is {place}, but its manifest says demo/1; .*models copy"):
        read_manifest(copied)


def test_a_changed_value_breaks_the_manifests_hash(version: Path) -> None:
    """A valid manifest that was changed after saving is corrupt."""
    path = version / MANIFEST
    stores.overwrite(path, path.read_bytes().replace(b'"neither"', b'"nothing"'))
    with pytest.raises(FileCorrupt, match="changed after saving"):
        read_manifest(version)


def test_a_missing_hash_is_corruption(version: Path) -> None:
    """A manifest without its hash file is corrupt."""
    (version / "manifest.sha256").unlink()
    with pytest.raises(FileCorrupt, match=r"manifest\.sha256"):
        read_manifest(version)
