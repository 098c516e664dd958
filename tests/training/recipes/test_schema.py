"""Recipe schema: the keys of a recipe, and the errors for wrong ones."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest

from polytask import training
from polytask.model.config import NetworkConfig, Pooling
from polytask.model.pretrained import config_from_published
from polytask.model.tasks import Kind
from polytask.training.recipes import schema as config
from polytask.training.recipes.schema import Recipe, RecipeError, SamplerName, TaskConfig, read_recipe
from tests.training.support import toy

RECIPES = sorted((Path(training.__file__).parent / "recipes").glob("*.toml"))

KEYS = {
    "Recipe": "name seed backbone conditioning optimizer sampler losses teachers length second_stage tasks",
    "BackboneConfig": "name pooling max_length frozen_layers frozen_embeddings fresh_layers dropout attention_dropout",
    "ConditioningConfig": "preset start freeze_attention_film film_rank task_size alignment alignment_form alignment_layer attention "
    "attention_blocks layer_norm layer_norm_form bottleneck bottleneck_size bottleneck_form pooling",
    "LossConfig": "task_mean scaled prior",
    "TeachersConfig": "seeds passes learning_rate learning_rates out_of_fold version",
    "OptimizerConfig": "learning_rate added_learning_rate weight_decay warmup clip_norm average layer_decay",
    "SamplerConfig": "name temperature cap min_passes max_passes form regression horizon amortised refresh",
    "LengthConfig": "examples passes minutes patience batch_rows batch_tokens evaluate_every checkpoint_every bf16 tensorboard",
    "SecondStageConfig": "tasks rank layers products passes examples learning_rate batch_rows",
    "TaskConfig": "name kind train validation holdout columns on_bad_row bad_row_limit selection cap cap_seed metric positive_label min_confidence max_length weight balanced labels value_range regression max_answer_tokens words word_shapes group_by positive entities "
    "use_question examples source licence",
    "ExampleConfig": "text text_pair candidates",
}


def _write(path: Path, **sections: Any) -> Path:
    path.write_text(toy.to_toml(toy.fields("backbone", [Kind.CLASSIFICATION], **sections)), encoding="utf-8")
    return path


def _network_config() -> NetworkConfig:
    return config_from_published(toy.published_config())


@pytest.mark.parametrize(("section", "keys"), KEYS.items())
def test_the_keys_of_a_recipe_are_these(section: str, keys: str) -> None:
    """A recipe has exactly these keys."""
    assert [*getattr(config, section).model_fields] == keys.split()


def test_a_recipe_is_read_with_its_text(tmp_path: Path) -> None:
    """A recipe is read with the values and the text of its file."""
    path = _write(tmp_path / "a.toml", sampler={"name": "temperature", "temperature": 2.5, "cap": 100})
    recipe, text = read_recipe(path)
    assert text == path.read_text(encoding="utf-8")
    assert (recipe.name, recipe.seed, recipe.backbone.name) == ("toy", 3, "backbone")
    assert recipe.conditioning.attention == (0, 1)
    assert (recipe.sampler.name, recipe.sampler.temperature, recipe.sampler.cap) == (SamplerName.TEMPERATURE, 2.5, 100)
    assert [(task.name, task.kind) for task in recipe.tasks] == [("mood", Kind.CLASSIFICATION)]


def test_a_recipe_is_frozen() -> None:
    """No section of a recipe can be changed."""
    recipe = toy.recipe("backbone")
    for part, key in ((recipe, "seed"), (recipe.optimizer, "learning_rate"), (recipe.tasks[0], "weight")):
        with pytest.raises(pydantic.ValidationError, match="frozen"):
            setattr(part, key, 9)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_our_recipes_are_valid(path: Path) -> None:
    """Each included recipe is valid, fits a MiniLM, names sources and licences, and shows an example of every task."""
    recipe, _ = read_recipe(path)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "max_position_embeddings": 512}
    network = recipe.network(config_from_published(toy.published_config() | sizes))
    for task in recipe.tasks:
        assert task.max_length <= network.max_length
        assert task.source
        assert task.licence
        assert task.examples


def test_the_demo_has_every_kind() -> None:
    """The embedded checkpoint shows all seven kinds of task."""
    (path,) = [path for path in RECIPES if path.stem == "demo"]
    recipe, _ = read_recipe(path)
    assert {task.kind for task in recipe.tasks} == set(Kind)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        (None, "epochs"),
        ("backbone", "frozen_layer"),
        ("conditioning", "adapters"),
        ("optimizer", "lr"),
        ("sampler", "tau"),
        ("length", "steps"),
        ("tasks", "lables"),
    ],
)
def test_an_unknown_key_is_an_error(tmp_path: Path, section: str | None, key: str) -> None:
    """An unknown key in any section is reported with its section and the file."""
    fields = toy.fields("backbone", [Kind.CLASSIFICATION, Kind.SPAN])
    index = fields if section is None else fields[section]
    (index[0] if isinstance(index, list) else index)[key] = 1
    path = tmp_path / "a.toml"
    path.write_text(toy.to_toml(fields), encoding="utf-8")
    named = {None: key, "tasks": rf"tasks\.0\.{key}"}.get(section, rf"{section}\.{key}")
    with pytest.raises(RecipeError, match=rf"\A{path}:\n  {named}: there is no such key"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("section", "key", "suggestion"),
    [
        ("tasks", "lables", "did you mean 'labels'?"),
        ("tasks", "batch_rows", "it is a key of [length]"),
        ("optimizer", "averages", "did you mean 'average'?"),
        ("length", "frozen_layers", "it is a key of [backbone]"),
        ("length", "seperator", ""),
    ],
)
def test_an_unknown_key_is_one_line_with_what_was_meant(
    tmp_path: Path, section: str, key: str, suggestion: str
) -> None:
    """An unknown key is answered in one line, with a similar key of its section or the section that has it."""
    fields = toy.fields("backbone", [Kind.CLASSIFICATION])
    index = fields[section]
    (index[0] if isinstance(index, list) else index)[key] = 1
    path = tmp_path / "a.toml"
    path.write_text(toy.to_toml(fields), encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    _, line = str(caught.value).splitlines()
    assert line.partition("there is no such key")[2] == (f"; {suggestion}" if suggestion else "")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("optimizer", "learning_rate", "fast"),
        ("optimizer", "learning_rate", 0),
        ("optimizer", "weight_decay", -0.1),
        ("optimizer", "warmup", 1.5),
        ("optimizer", "clip_norm", 0),
        ("backbone", "pooling", "max"),
        ("backbone", "frozen_layers", 1.5),
        ("backbone", "dropout", -1),
        ("conditioning", "attention", ["one"]),
        ("conditioning", "attention_blocks", 0),
        ("conditioning", "preset", "released"),
        ("conditioning", "layer_norm", "lower"),
        ("conditioning", "film_rank", -1),
        ("losses", "task_mean", "yes, please"),
        ("sampler", "name", "round-robin"),
        ("sampler", "temperature", 0.5),
        ("length", "examples", 0),
        ("length", "batch_rows", 0),
        ("length", "batch_tokens", "many"),
    ],
)
def test_a_wrong_value_is_an_error(tmp_path: Path, section: str, key: str, value: object) -> None:
    """A value of the wrong type or outside its bounds is reported with its key and the file."""
    path = _write(tmp_path / "a.toml", **{section: {key: value}})
    with pytest.raises(RecipeError, match=rf"\A{path}:\n  {section}\.{key}"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "translation"),
        ("weight", 0),
        ("max_length", 4),
        ("value_range", [1]),
        ("regression", "mae"),
        ("examples", [{"text": "a", "words": "b"}]),
        ("examples", [{"text_pair": "a"}]),
        ("examples", ["a"]),
    ],
)
def test_a_wrong_value_of_a_task_is_an_error(tmp_path: Path, key: str, value: object) -> None:
    """A wrong value in a task, also in its examples, is reported with the task's index."""
    fields = toy.fields("backbone", [Kind.SPAN, Kind.CLASSIFICATION])
    fields["tasks"][1][key] = value
    path = tmp_path / "a.toml"
    path.write_text(toy.to_toml(fields), encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"\A{path}:\n  tasks\.1\.{key}"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Kind.CLASSIFICATION, {"train": []}, r"tasks\.0\.train: "),
        (Kind.CLASSIFICATION, {"cap": 0}, r"tasks\.0\.cap: "),
        (Kind.CLASSIFICATION, {"validation": {"In": "a.jsonl"}}, r"tasks\.0\.validation\.In"),
        (Kind.CLASSIFICATION, {"validation": {}}, "validation: name a file, or hold out a share of train"),
        (Kind.CLASSIFICATION, {"holdout": 0.1}, "validation: name a file, or hold out .*, not both"),
        (Kind.CLASSIFICATION, {"validation": {}, "holdout": 1.0}, r"tasks\.0\.holdout: "),
        (Kind.CLASSIFICATION, {"columns": {"txt": "a"}}, "columns: 'txt' is no field of classification; there are gr"),
        (Kind.CLASSIFICATION, {"metric": "acc"}, "metric: 'acc' is no metric of classification; there are accuracy, "),
        (Kind.REGRESSION, {"metric": "accuracy"}, "metric: 'accuracy' is no metric of regression; there are pearson"),
        (Kind.CLASSIFICATION, {"metric": "f1"}, "metric: 'f1' needs positive_label"),
        (Kind.CLASSIFICATION, {"metric": "f1_accuracy"}, "metric: 'f1_accuracy' needs positive_label"),
        (Kind.SPAN, {"positive_label": "yes"}, "positive_label: a key of classification only, not of span"),
        (Kind.SPAN, {"labels": ["a", "b"]}, "labels: a key of classification, multilabel, tagging only, not of span"),
        (Kind.CLASSIFICATION, {"positive": "yes"}, "positive: a key of ranking only, not of classification"),
        (Kind.RANKING, {"use_question": False}, "use_question: a key of multiple_choice only, not of ranking"),
    ],
)
def test_what_does_not_fit_a_task_is_an_error(
    tmp_path: Path, kind: Kind, changes: dict[str, Any], message: str
) -> None:
    """Files, columns and metrics that the task's kind cannot have are reported with the possible ones."""
    fields = toy.fields("backbone", [kind])
    fields["tasks"][0] |= changes
    path = tmp_path / "a.toml"
    path.write_text(toy.to_toml(fields), encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"\A{path}:\n  .*{message}"):
        read_recipe(path)


def test_one_file_or_several_are_read_alike() -> None:
    """A single file is a list of one, a single split is named `validation`, and named splits keep their order."""
    one, several = toy.fields("backbone", [Kind.SPAN, Kind.SPAN])["tasks"]
    several |= {"train": ["a.jsonl", "b.csv"], "validation": {"near": "c.jsonl", "far": "d.jsonl"}}
    found = [TaskConfig.model_validate(fields) for fields in (one, several)]
    assert [config.train for config in found] == [("answer/train.jsonl",), ("a.jsonl", "b.csv")]
    assert [config.measured_files for config in found] == [("answer/validation.jsonl",), ("c.jsonl", "d.jsonl")]
    assert list(found[0].validation) == ["validation"]
    held_out = TaskConfig.model_validate({**several, "validation": {}, "holdout": 0.5})
    assert held_out.measured_files == ("a.jsonl", "b.csv")
    assert TaskConfig.model_validate(found[1].model_dump()) == found[1]


def test_a_missing_key_is_an_error(tmp_path: Path) -> None:
    """All missing keys are reported together."""
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[backbone]\n[length]\nexamples = 3\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}:"
    assert lines[1:] == [f"  {key}: Field required" for key in ("tasks",)]


def test_the_shortest_recipe_is_complete() -> None:
    """A name and tasks are a whole recipe: MiniLM with conditional modules, which chooses its length itself."""
    fields = toy.fields("", [Kind.CLASSIFICATION])
    recipe = Recipe.model_validate({"name": "short", "tasks": fields["tasks"]})
    assert recipe.backbone.name == "sentence-transformers/all-MiniLM-L6-v2"
    network = recipe.network(replace(_network_config(), max_positions=512))
    assert network.conditional_attention == network.conditional_layer_norm == network.conditional_bottleneck == (1,)
    assert recipe.sampler.name is SamplerName.TEMPERATURE
    assert recipe.length.is_chosen_by_run


def test_a_section_that_is_there_means_what_it_says() -> None:
    """A backbone by name has no settings of the default one, and [conditioning] and [sampler] are taken as a whole."""
    recipe = toy.recipe("backbone", [Kind.CLASSIFICATION])
    assert (recipe.backbone.pooling, recipe.backbone.attention_dropout) == (Pooling.MEAN, 0.1)
    assert recipe.sampler.name is SamplerName.PROPORTIONAL
    assert recipe.conditioning.film_rank == 0
    longer = Recipe.model_validate({"name": "a", "tasks": recipe.tasks, "backbone": {"max_length": 384}})
    assert (longer.backbone.max_length, longer.backbone.pooling) == (384, Pooling.PAIRS)


def test_a_preset_has_none_of_the_defaults() -> None:
    """With a preset, sections that a recipe leaves out are those of the published method."""
    fields = {"name": "a", "tasks": toy.fields("", [Kind.CLASSIFICATION])["tasks"]}
    recipe = Recipe.model_validate(fields | {"conditioning": {"preset": "released-base"}})
    assert (recipe.backbone.pooling, recipe.backbone.attention_dropout) == (Pooling.CLS, 0.1)
    assert (recipe.sampler.name, recipe.conditioning.film_rank) == (SamplerName.PROPORTIONAL, 0)


def test_examples_and_passes_do_not_go_together(tmp_path: Path) -> None:
    """A length is given once."""
    with pytest.raises(RecipeError, match="passes: give `examples` or `passes`, not both"):
        read_recipe(_write(tmp_path / "a.toml", length={"passes": 2.0}))


def test_a_recipe_without_tasks_is_an_error(tmp_path: Path) -> None:
    """A recipe needs at least one task."""
    path = tmp_path / "a.toml"
    path.write_text(toy.to_toml(toy.fields("backbone", [])), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"tasks: .*at least 1"):
        read_recipe(path)


@pytest.mark.parametrize("content", [b"name = ", b"name = a", b"[a]\n[a]\n", b'name = "\xe9"\n'])
def test_a_file_that_is_no_toml_is_an_error(tmp_path: Path, content: bytes) -> None:
    """Broken TOML, or another encoding, is an error that names the file."""
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=rf"\A{path}: not valid TOML: "):
        read_recipe(path)


def test_a_recipe_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """A recipe as Windows' Notepad saves it is read as without the mark."""
    path = tmp_path / "a.toml"
    content = toy.to_toml(toy.fields("backbone"))
    path.write_text(content, encoding="utf-8-sig")
    assert read_recipe(path)[1] == content


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A missing recipe, or a folder in its place, is an error that names it."""
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(RecipeError, match=rf"\A{path}: cannot be read: "):
            read_recipe(path)


def test_the_network_is_the_backbones_with_the_recipes_switches() -> None:
    """The network's sizes come from the backbone, its conditioning from the recipe."""
    recipe = toy.recipe(
        "backbone",
        backbone={"pooling": "cls", "dropout": 0.3, "attention_dropout": 0.2},
        conditioning={"alignment": False, "layer_norm": [0]},
    )
    expected = replace(
        _network_config(),
        pooling=Pooling.CLS,
        max_length=48,
        dropout=0.3,
        attention_dropout=0.2,
        attention_blocks=4,
        bottleneck_size=8,
        conditional_alignment=False,
        conditional_attention=(0, 1),
        conditional_layer_norm=(0,),
        conditional_bottleneck=(0, 1),
    )
    assert recipe.network(_network_config()) == expected


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("backbone", "max_length", 65),
        ("conditioning", "layer_norm", [2]),
        ("conditioning", "bottleneck_size", 0),
        ("conditioning", "attention_blocks", 49),
    ],
)
def test_switches_that_do_not_fit_the_backbone_are_an_error(section: str, key: str, value: object) -> None:
    """A layer that the backbone does not have, or rows too long for it, are errors that name the recipe."""
    recipe = toy.recipe("backbone", **{section: {key: value}})
    with pytest.raises(RecipeError, match=f"recipe 'toy': .*{key}"):
        recipe.network(_network_config())


def test_toy_recipes_survive_toml() -> None:
    """The toy recipes of the tests, written as TOML, are read back unchanged."""
    fields = toy.fields("backbone")
    fields["tasks"][0]["examples"] = [{"text": 'a "good" cat\n'}, {"text": "bad"}]
    assert Recipe.model_validate(tomllib.loads(toy.to_toml(fields))) == Recipe.model_validate(fields)


@pytest.mark.parametrize(
    ("stage", "message"),
    [({"tasks": ["moods"]}, "there is no task 'moods'; did you mean 'mood'?"), ({"rank": -1}, "greater than or equal")],
)
def test_a_second_stage_is_of_the_tasks_of_the_recipe(tmp_path: Path, stage: dict[str, Any], message: str) -> None:
    """A second stage of another task, or with a value that means nothing, is an error before anything starts."""
    with pytest.raises(RecipeError, match=re.escape(message)):
        read_recipe(_write(tmp_path / "a.toml", second_stage=stage))


def test_a_residual_needs_its_layer() -> None:
    """A second stage on a layer that the backbone lacks is an error before anything starts."""
    recipe = toy.recipe("backbone", [Kind.CLASSIFICATION], second_stage={"layers": [1, 2]})
    with pytest.raises(RecipeError, match=r"second_stage.layers \[1, 2\] names a layer outside 0..1"):
        recipe.network(_network_config())


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"passes": 2}, "seeds: name the number of teachers"),
        ({"seeds": 1, "out_of_fold": 1}, "out_of_fold: one part would leave nothing"),
        ({"seeds": 1, "version": "demo/1"}, "version: a published version teaches as it is"),
        ({"version": "demo"}, "teachers.version"),
        ({"seeds": 1, "learning_rates": {"moood": 1e-4}}, r"there is no task 'moood'.*mood"),
    ],
)
def test_teachers_that_cannot_be_meant_are_refused(teachers: dict[str, Any], message: str) -> None:
    """Keys of teachers that contradict each other or the tasks are errors that say what to do."""
    with pytest.raises(pydantic.ValidationError, match=message):
        toy.recipe("backbone", teachers=teachers)
