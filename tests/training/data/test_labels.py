"""Labels: what stands for a label's name is put right or refused, and said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from polytask.model.tasks import Kind
from polytask.training.data.examples import TaskData, load_task, load_validation
from polytask.training.data.issues import DataError
from polytask.training.data.labels import lookalikes
from polytask.training.recipes.schema import RecipeError, TaskConfig
from tests.training.support import toy


def _load(
    folder: Path, kind: Kind, train: Sequence[Any], validation: Sequence[Any] | None = None, /, **config: Any
) -> TaskData:
    toy.write_records(folder / "train.jsonl", train)
    toy.write_records(folder / "validation.jsonl", train if validation is None else validation)
    entry = {"name": "task", "kind": kind, "train": "train.jsonl", "validation": "validation.jsonl", **config}
    data = load_task(TaskConfig.model_validate(entry), folder)
    assert load_validation(data.task, data.config, folder).validation == data.validation
    return data


def _classified(*labels: object) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def _listed(*labels: list[object]) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "labels": own} for number, own in enumerate(labels)]


def _tagged(*tags: str, count: int = 60) -> list[dict[str, Any]]:
    return [{"tokens": [*(f"word{i}" for i in range(len(tags))), str(n)], "tags": [*tags, "O"]} for n in range(count)]


# Names


def test_blanks_around_labels_make_no_other_label(tmp_path: Path) -> None:
    """A label with blanks around it is the label without them, with a warning; one that the recipe lists stays."""
    data = _load(tmp_path, Kind.CLASSIFICATION, _classified("pos", "pos ", " neg", "neg"))
    assert data.task.labels == ("neg", "pos")
    assert [example.target for example in data.train] == [1, 1, 0, 0]
    (note,) = data.notes
    assert note.startswith("warning: blanks around labels are removed: 4, the first 'pos ' at ")
    assert note.endswith("train.jsonl:2")
    kept = _load(tmp_path, Kind.CLASSIFICATION, _classified("pos", "pos "), labels=["pos", "pos "])
    assert [example.target for example in kept.train] == [0, 1]


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    """Labels 1.0 and 1 are the same label, in numbers and in text, but not beside labels that are no numbers."""
    for labels in ((0.0, 1.0, 2.0), ("0.0", "1.0", "2"), (0, 1, 2)):
        assert _load(tmp_path, Kind.CLASSIFICATION, _classified(*labels), _classified(2.0, 1)).task.labels == (
            "0",
            "1",
            "2",
        )
    assert _load(tmp_path, Kind.CLASSIFICATION, _classified("1.0", "beta")).task.labels == ("1.0", "beta")


def test_labels_that_are_almost_the_same_are_named(tmp_path: Path) -> None:
    """Labels that differ only in case or Unicode form are a warning with both names."""
    assert lookalikes(["a", "A", "b", "\u00e9", "e\u0301"]) == [("a", "A"), ("\u00e9", "e\u0301")]
    data = _load(tmp_path, Kind.CLASSIFICATION, _classified("pos", "Pos", "neg"))
    assert data.notes == ("warning: the labels 'Pos' and 'pos' are almost the same",)


def test_an_unknown_label_is_answered_with_a_similar_one(tmp_path: Path) -> None:
    """A label of validation that train spells otherwise is refused with the spelling of train and the recipe's key."""
    with pytest.raises(
        DataError, match=r"label 'true' is not one .* `labels` in the recipe .* did you mean 'True'\?\Z"
    ):
        _load(tmp_path, Kind.CLASSIFICATION, _classified("True", "False"), _classified(True))


def test_a_value_outside_the_range_is_answered_with_the_key(tmp_path: Path) -> None:
    """A validation value that train does not reach is refused with the key that sets the range."""
    with pytest.raises(DataError, match=r"label 5.95 is outside .* 0.0 to 5.9; `value_range` in the recipe"):
        _load(tmp_path, Kind.REGRESSION, _classified(0.0, 5.9), _classified(5.95))


# Vectors


@pytest.mark.parametrize("form", [int, float, bool])
def test_vectors_have_the_names_of_the_recipe(tmp_path: Path, form: type) -> None:
    """With `labels` in the recipe a vector of zeros and ones, of any type, gives the labels of its places."""
    vectors = _listed(*([form(flag) for flag in flags] for flags in ((1, 0, 1), (0, 0, 0), (0, 1, 0))))
    data = _load(tmp_path, Kind.MULTILABEL, vectors, labels=["joy", "love", "fear"])
    assert data.task.labels == ("joy", "love", "fear")
    assert [example.target for example in data.train] == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    with pytest.raises(DataError, match=r"train.jsonl:2: labels: not a vector of 2 zeros and ones"):
        _load(tmp_path, Kind.MULTILABEL, _listed([1, 0], [0, 1, 1]), labels=["joy", "love"])


@pytest.mark.parametrize("vectors", [([1, 0, 0], [0, 1, 0]), ([1.0, 0.0], [0.0, 1.0]), ([1, 0], [0, 0, 1])])
def test_vectors_without_names_are_refused(tmp_path: Path, vectors: tuple[list[object], ...]) -> None:
    """Without names in the recipe vectors are refused with the line, and with what to write."""
    with pytest.raises(
        DataError, match=r"train.jsonl:1: labels: a vector of . zeros and ones, not names; .*`labels = "
    ):
        _load(tmp_path, Kind.MULTILABEL, _listed(*vectors))


def test_labels_may_be_called_zero_and_one(tmp_path: Path) -> None:
    """Lists of different lengths without a repeated label are names, and so is what the recipe lists."""
    data = _load(tmp_path, Kind.MULTILABEL, _listed([0], [1], [0, 1], []))
    assert [example.target for example in data.train] == [(1, 0), (0, 1), (1, 1), (0, 0)]
    listed = _load(tmp_path, Kind.MULTILABEL, _listed([0, 1], [1, 0]), labels=["0", "1", "2"])
    assert [example.target for example in listed.train] == [(1, 1, 0), (1, 1, 0)]


def test_a_repeated_label_is_a_warning(tmp_path: Path) -> None:
    """A label twice in a record is said with its place."""
    data = _load(tmp_path, Kind.MULTILABEL, _listed(["a", "b"], ["a", "a"]))
    assert data.notes[0].startswith("warning: 2 records have a label twice, the first at ")
    assert "train.jsonl:2" in data.notes[0]


# Tags


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        (["B-PER", "E-PER", "O", "S-PER"], "BIOES"),
        (["B-PER", "L-PER", "O", "U-PER"], "BILOU"),
        (["I-PER", "I-PER", "O", "I-PER"], "IOB1"),
        (["b_PER", "i_PER", "O", "b_PER"], "IOB2"),
    ],
)
def test_tags_of_every_scheme_make_the_same_task(tmp_path: Path, tags: list[str], name: str) -> None:
    """Tags of any scheme give the task and the targets of IOB2, and the scheme is said."""
    plain = _load(tmp_path, Kind.TAGGING, _tagged("B-PER", "I-PER", "O", "B-PER"))
    found = _load(tmp_path, Kind.TAGGING, _tagged(*tags))
    assert (found.task, found.train) == (plain.task, plain.train)
    assert found.notes[0] == f"tags mark entities, {name}, converted to IOB2"
    assert plain.notes == ("tags mark entities, IOB2",)
    listed = _load(
        tmp_path, Kind.TAGGING, _tagged(*tags), labels=["O", *dict.fromkeys(tag for tag in tags if tag != "O")]
    )
    assert listed.task.labels == ("O", "B-PER", "I-PER")


def test_a_mistyped_tag_is_named_by_line(tmp_path: Path) -> None:
    """One tag that does not fit the others is an error of its line, in train and in validation."""
    good = _tagged("B-PER", "I-PER", "O", "B-PER")
    typo = {**good[7], "tags": ["B_PER", "I-PER", "O", "B-PER", "O"]}
    for train, validation, file in (([*good[:7], typo], good, "train"), (good, [*good[:7], typo], "validation")):
        with pytest.raises(
            DataError, match=rf"\A{tmp_path}/{file}.jsonl:8: tags: 'B_PER' does not fit .* IOB2; .*entities = false"
        ):
            _load(tmp_path, Kind.TAGGING, train, validation)
    plain = _load(tmp_path, Kind.TAGGING, [*good, typo], entities=False)
    assert not plain.task.bio
    assert plain.notes == ("tags are plain: no entities, every word has a label",)


def test_what_cannot_be_plain_is_refused(tmp_path: Path) -> None:
    """Tags that every version reads as entities cannot be declared plain."""
    with pytest.raises(RecipeError, match=r"entities: false, but all tags are B-, I- or O"):
        _load(tmp_path, Kind.TAGGING, _tagged("B-PER", "I-PER"), entities=False)
