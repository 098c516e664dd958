"""Examples: labels, targets, splits and rows that are made from records of every kind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytask.model.encoding import Input, InputEncoder
from polytask.model.tasks import Kind, Task
from polytask.training.data.examples import (
    EncodedExample,
    Example,
    TaskData,
    encode_examples,
    load_task,
    load_validation,
)
from polytask.training.data.issues import DataError
from polytask.training.recipes.schema import RecipeError, TaskConfig
from tests.support import tiny
from tests.training.support import toy

ENCODER = InputEncoder(tiny.tokenizer())


def _load(
    folder: Path, kind: Kind, train: Sequence[Any], validation: Sequence[Any] | None = None, /, **config: Any
) -> TaskData:
    toy.write_records(folder / "train.jsonl", train)
    toy.write_records(folder / "validation.jsonl", train if validation is None else validation)
    entry = {"name": "task", "kind": kind, "train": "train.jsonl", "validation": "validation.jsonl", **config}
    return load_task(TaskConfig.model_validate(entry), folder)


def _only(data: TaskData) -> Example:
    (example,) = data.train
    assert data.validation == data.train
    return example


# Targets of each kind


def test_classification_targets_are_label_ids(tmp_path: Path) -> None:
    """A target is the index of its label among the sorted labels of the training records."""
    records = [{"text": label, "label": label} for label in ("sad", "calm", "sad", "glad")]
    data = _load(tmp_path, Kind.CLASSIFICATION, records)
    assert data.task == Task("task", Kind.CLASSIFICATION, 128, labels=("calm", "glad", "sad"))
    assert [(example.input, example.target) for example in data.train] == [
        (Input("sad"), 2),
        (Input("calm"), 0),
        (Input("sad"), 2),
        (Input("glad"), 1),
    ]


def test_multilabel_targets_are_one_flag_per_label(tmp_path: Path) -> None:
    """A multilabel target is 1 for each label of the record and 0 for the others; a record may have none."""
    records = [{"text": "a", "labels": ["y", "x"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["z"]}]
    data = _load(tmp_path, Kind.MULTILABEL, records)
    assert data.task.labels == ("x", "y", "z")
    assert data.task.thresholds == (0.5, 0.5, 0.5)
    assert [example.target for example in data.train] == [(1, 1, 0), (0, 0, 0), (0, 0, 1)]


def test_regression_targets_are_values(tmp_path: Path) -> None:
    """A regression target is the value, and the task's range spans the training values."""
    records = [{"text": "a", "text_pair": "b", "label": value} for value in (2.5, 0.5, 4)]
    data = _load(tmp_path, Kind.REGRESSION, records)
    assert data.task.value_range == (0.5, 4.0)
    assert data.task.pair
    assert [example.target for example in data.train] == [2.5, 0.5, 4.0]


def test_ranking_targets_are_one_flag_per_candidate(tmp_path: Path) -> None:
    """The records of a group make one query with its candidates in file order, also if groups are mixed."""
    records = [
        {"group": group, "text": f"query {group}", "text_pair": candidate, "label": label}
        for group, candidate, label in (("a", "a1", 0), ("b", "b1", 1), ("a", "a2", 1), ("a", "a3", 0))
    ]
    data = _load(tmp_path, Kind.RANKING, records)
    assert data.train == (
        Example(Input("query a", candidates=("a1", "a2", "a3")), (0, 1, 0)),
        Example(Input("query b", candidates=("b1",)), (1,)),
    )


def test_ranking_groups_by_the_recipes_field(tmp_path: Path) -> None:
    """`group_by` names the field that records of a query share, `positive` the label of relevant candidates."""
    records = [
        {"text": text, "text_pair": candidate, "label": label}
        for text, candidate, label in (("q", "x", "no"), ("r", "y", "yes"), ("q", "z", "yes"))
    ]
    data = _load(tmp_path, Kind.RANKING, records, group_by="text", positive="yes")
    assert [(e.input.text, e.input.candidates, e.target) for e in data.train] == [
        ("q", ("x", "z"), (0, 1)),
        ("r", ("y",), (1,)),
    ]


@pytest.mark.parametrize(("use_question", "text"), [(True, "It rained. What then?"), (False, "It rained.")])
def test_multiple_choice_targets_are_indices(tmp_path: Path, use_question: bool, text: str) -> None:
    """The target is the index of the right choice; the question follows the text unless the recipe leaves it out."""
    record = {"text": "It rained.", "question": "What then?", "choices": ["sun", "wet"], "label": 1}
    example = _only(_load(tmp_path, Kind.MULTIPLE_CHOICE, [record], use_question=use_question))
    assert example == Example(Input(text, candidates=("sun", "wet")), 1)


def test_tagging_targets_are_one_label_per_word(tmp_path: Path) -> None:
    """Each word keeps its range of characters, whatever characters it has, and gets the index of its label."""
    record = {"tokens": ["Mr.", "O'Neil", "of", "New", "York"], "tags": ["O", "B-per", "O", "B-loc", "I-loc"]}
    data = _load(tmp_path, Kind.TAGGING, [record])
    example = _only(data)
    assert example.input.words is not None
    assert [example.input.text[start:end] for start, end in example.input.words] == record["tokens"]
    assert [data.task.labels[label] for label in example.target] == record["tags"]


def test_span_targets_are_characters_of_every_answer(tmp_path: Path) -> None:
    """A span target is the character range of each right answer in the context."""
    context = "in the barn they nest"
    answers = [{"text": "the barn", "start": 3}, {"text": "barn", "start": 7}]
    example = _only(_load(tmp_path, Kind.SPAN, [{"text": "where", "text_pair": context, "answers": answers}]))
    assert example.target == ((3, 11), (7, 11))
    assert [context[start:end] for start, end in example.target] == ["the barn", "barn"]


def test_a_question_without_an_answer_starts_and_ends_at_the_start_token(tmp_path: Path) -> None:
    """If a question of train has no answer, the task may say so, and its target is the first position of every row."""
    answered = {"text": "cat", "text_pair": "the cat sat", "answers": [{"text": "cat", "start": 4}]}
    data = _load(tmp_path, Kind.SPAN, [answered, answered | {"answers": []}])
    assert data.task.may_lack_answer
    encoded = encode_examples(ENCODER, data.task, 0, data.train)
    assert [example.target for example in encoded] == [(2, 2), (0, 0)]
    assert [example.encodings[0].positions[0] for example in encoded] == [0, 0]


def test_no_answer_is_learnt_from_train_or_not_at_all(tmp_path: Path) -> None:
    """A validation question without an answer is refused by line if all questions of train have one."""
    answered = {"text": "cat", "text_pair": "the cat sat", "answers": [{"text": "cat", "start": 4}]}
    with pytest.raises(DataError, match=r"validation.jsonl:2: answers: none, but every question of train has one"):
        _load(tmp_path, Kind.SPAN, [answered], [answered, answered | {"answers": []}])


# What the recipe says about a task


def test_labels_of_the_recipe_keep_their_order(tmp_path: Path) -> None:
    """Labels listed in the recipe keep their order, and also those that no record has stay."""
    records = [{"text": "a", "label": "x"}]
    data = _load(tmp_path, Kind.CLASSIFICATION, records, labels=["y", "x", "z"])
    assert data.task.labels == ("y", "x", "z")
    assert _only(data).target == 1


def test_pairs_make_a_pair_task(tmp_path: Path) -> None:
    """Records with `text_pair` make a pair task; ranking, choice and span tasks always are, tagging never is."""
    single = _load(tmp_path, Kind.REGRESSION, [{"text": "a", "label": 1}, {"text": "b", "label": 2}])
    assert not single.task.pair
    for kind in Kind:
        data = _load(tmp_path, kind, toy.records(kind, 6))
        assert data.task.pair == (kind in {Kind.REGRESSION, Kind.RANKING, Kind.MULTIPLE_CHOICE, Kind.SPAN})


@pytest.mark.parametrize("labels", [["good"], ["good", "bad", "good"]])
def test_labels_that_make_no_task_are_the_recipes_fault(tmp_path: Path, labels: list[str]) -> None:
    """Labels of the recipe that make no task raise RecipeError, not DataError."""
    with pytest.raises(RecipeError, match=r"\Atask 'task': .*label"):
        _load(tmp_path, Kind.CLASSIFICATION, toy.records(Kind.CLASSIFICATION, 4), labels=labels)


def test_a_single_label_in_the_data_is_the_datas_fault(tmp_path: Path) -> None:
    """A file in which all records have the same label raises DataError with the file's name."""
    with pytest.raises(DataError, match=r"\Atrain.jsonl: task 'task': .*at least two labels"):
        _load(tmp_path, Kind.CLASSIFICATION, [{"text": "a", "label": "x"}])


def test_what_is_wrong_with_both_files_is_reported_together(tmp_path: Path) -> None:
    """Errors in the training file and in the validation file are in the same DataError."""
    with pytest.raises(DataError) as caught:
        _load(tmp_path, Kind.CLASSIFICATION, [{"text": "a"}], [{"label": "a"}])
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/train.jsonl:1: label")
    assert second.startswith(f"{tmp_path}/validation.jsonl:1: text")


def test_a_constant_value_has_no_range(tmp_path: Path) -> None:
    """Values that are all equal raise DataError, because they span no range."""
    with pytest.raises(DataError, match="value_range must rise"):
        _load(tmp_path, Kind.REGRESSION, [{"text": "a", "label": 2}, {"text": "b", "label": 2}])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"positive_label": "great"}, "positive_label: 'great' is not among its labels: bad, good"),
        ({"positive_label": "great", "labels": ["good", "bad"]}, "positive_label: 'great' is not among its labels"),
    ],
)
def test_a_positive_label_must_be_a_label(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    """A `positive_label` that the data do not have raises RecipeError with the labels that there are."""
    with pytest.raises(RecipeError, match=rf"\Atask 'task': {message}"):
        _load(tmp_path, Kind.CLASSIFICATION, toy.records(Kind.CLASSIFICATION, 4), **config)


def test_spans_are_measured_only_of_bio_tags(tmp_path: Path) -> None:
    """The metric `span_f1` on plain tags raises RecipeError, because only BIO tags have spans."""
    records = [{"tokens": ["a", "b"], "tags": ["NOUN", "VERB"]}]
    with pytest.raises(
        RecipeError, match=r"\Atask 'task': metric: 'span_f1' needs .*: NOUN, VERB; use 'token_accuracy'\Z"
    ):
        _load(tmp_path, Kind.TAGGING, records, metric="span_f1")


# Splits


def _texts(examples: Sequence[Example]) -> list[str]:
    return [example.input.text for example in examples]


def _numbered(count: int) -> list[toy.Record]:
    return [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(count)]


@pytest.mark.parametrize(("cap", "seed"), [(1, 0), (3, 0), (3, 5), (9, 0), (10, 0), (99, 0)])
def test_a_cap_keeps_the_first_of_a_shuffled_order(tmp_path: Path, cap: int, seed: int) -> None:
    """A cap keeps the first line numbers after a shuffle with the seed, in file order."""
    order = list(range(10))
    random.Random(seed).shuffle(order)  # noqa: S311 - sampling, not cryptography
    data = _load(tmp_path, Kind.CLASSIFICATION, _numbered(10), cap=cap, cap_seed=seed)
    assert _texts(data.train) == [f"text {number}" for number in sorted(order[:cap])]
    assert len(data.validation) == 10
    assert data.task.labels == ("x", "y")


def test_a_cap_counts_whole_queries(tmp_path: Path) -> None:
    """A cap on a ranking counts queries, each with all its candidates."""
    records = toy.records(Kind.RANKING, 8)
    whole = _load(tmp_path, Kind.RANKING, records).train
    kept = _load(tmp_path, Kind.RANKING, records, cap=3).train
    assert len(kept) == 3
    assert set(kept) < set(whole)


def test_train_may_be_several_files(tmp_path: Path) -> None:
    """Several training files of any format are read as one, and a cap counts over all of them."""
    toy.write_records(tmp_path / "more.jsonl", _numbered(9)[4:])
    (tmp_path / "last.csv").write_text("text,label\ntext 9,y\n", encoding="utf-8")
    names = {"train": ["train.jsonl", "more.jsonl", "last.csv"], "cap": 6}
    one = _load(tmp_path, Kind.CLASSIFICATION, _numbered(10), cap=6)
    several = _load(tmp_path, Kind.CLASSIFICATION, _numbered(4), _numbered(2), **names)
    assert several.train == one.train
    toy.write_records(tmp_path / "more.jsonl", [{"text": "a"}])
    (tmp_path / "last.csv").write_text("text,label\n,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"(?s)more.jsonl:1: label.*last.csv:2: text"):
        _load(tmp_path, Kind.CLASSIFICATION, _numbered(4), **names)


def test_validation_may_be_several_named_files(tmp_path: Path) -> None:
    """Validation splits follow each other in the recipe's order, and the size of each is known."""
    toy.write_records(tmp_path / "z.jsonl", _numbered(3))
    toy.write_records(tmp_path / "a.jsonl", _numbered(5)[3:])
    data = _load(tmp_path, Kind.CLASSIFICATION, _numbered(4), validation={"zeta": "z.jsonl", "alpha": "a.jsonl"})
    assert _texts(data.validation) == [f"text {number}" for number in range(5)]
    assert list(data.splits.items()) == [("zeta", 3), ("alpha", 2)]
    toy.write_records(tmp_path / "a.jsonl", [{"text": "a", "label": "new"}])
    with pytest.raises(DataError, match=r"a.jsonl:1: label 'new'"):
        _load(tmp_path, Kind.CLASSIFICATION, _numbered(4), validation={"zeta": "z.jsonl", "alpha": "a.jsonl"})


def _holding_out(folder: Path, records: Sequence[toy.Record], share: float, kind: Kind, **config: Any) -> TaskData:
    toy.write_records(folder / "train.jsonl", records)
    entry = {"name": "task", "kind": kind, "train": "train.jsonl", "holdout": share, **config}
    data = load_task(TaskConfig.model_validate(entry), folder)
    assert load_validation(data.task, data.config, folder) == replace(data, train=(), selection=())
    return data


@pytest.mark.parametrize("share", [0.01, 0.25, 0.9])
def test_a_share_of_train_can_be_held_out(tmp_path: Path, share: float) -> None:
    """Every training example is either trained on or held out, and a later split is the same for all kinds."""
    for kind in Kind:
        records = toy.records(kind, 20)
        whole = _load(tmp_path, kind, records).train
        data = _holding_out(tmp_path, records, share, kind)
        assert len(data.validation) == data.splits["held-out"] >= 1
        assert len(data.validation) == pytest.approx(share * 20, abs=1.5)
        assert sorted(map(str, (*data.train, *data.validation))) == sorted(map(str, whole))


def test_a_cap_does_not_change_what_is_held_out(tmp_path: Path) -> None:
    """The same records are held out with a cap, which counts the remaining ones."""
    all_kept = _holding_out(tmp_path, _numbered(40), 0.25, Kind.CLASSIFICATION)
    capped = _holding_out(tmp_path, _numbered(40), 0.25, Kind.CLASSIFICATION, cap=4, cap_seed=7)
    assert capped.validation == all_kept.validation
    assert len(capped.train) == 4
    assert set(capped.train) < set(all_kept.train)


def test_records_of_a_group_stay_together(tmp_path: Path) -> None:
    """With `group_by` no group is on both sides of a split, and a record without a group is an error."""
    records = [{**record, "page": number // 7} for number, record in enumerate(_numbered(70))]
    data = _holding_out(tmp_path, records, 0.2, Kind.CLASSIFICATION, group_by="page")
    pages = [{int(text.split()[1]) // 7 for text in _texts(own)} for own in (data.train, data.validation)]
    assert not pages[0] & pages[1]
    assert len(data.validation) == 14
    with pytest.raises(DataError, match=r"train.jsonl:71: page: no text or number"):
        _holding_out(tmp_path, [*records, _numbered(1)[0]], 0.2, Kind.CLASSIFICATION, group_by="page")
    plain = [{**record, "group": record["page"]} for record in records[:56]] + records[56:]
    data = _holding_out(tmp_path, plain, 0.2, Kind.CLASSIFICATION)
    pages = [
        {number // 7 for text in _texts(own) if (number := int(text.split()[1])) < 56}
        for own in (data.train, data.validation)
    ]
    assert pages[1]
    assert not pages[0] & pages[1], "what has a group keeps it without the recipe's saying so"
    one = [{**record, "page": 1} for record in records]
    with pytest.raises(DataError, match=r"\Atrain.jsonl: holdout = 0.2: all records have the same group"):
        _holding_out(tmp_path, one, 0.2, Kind.CLASSIFICATION, group_by="page")


def test_labels_are_equally_frequent_in_what_is_held_out(tmp_path: Path) -> None:
    """A rare label has its share of the held-out records, of one label a record and of several."""
    rare = [number % 10 == 0 for number in range(400)]
    classified = [{"text": f"text {n}", "label": "rare" if is_rare else "usual"} for n, is_rare in enumerate(rare)]
    data = _holding_out(tmp_path, classified, 0.1, Kind.CLASSIFICATION)
    assert [example.target for example in data.validation].count(0) == 4
    listed = [{"text": f"text {n}", "labels": ["usual", "rare"][: 1 + is_rare]} for n, is_rare in enumerate(rare)]
    data = _holding_out(tmp_path, listed, 0.1, Kind.MULTILABEL)
    assert sum(example.target[0] for example in data.validation) == 4


def test_a_tenth_of_train_is_kept_for_choices(tmp_path: Path) -> None:
    """`selection` is a share of what the cap leaves, 1,000 examples at most, with whole groups, labels as frequent as in
    train, and of fewer than 100 examples nothing.
    """
    records = [{**record, "group": number // 4} for number, record in enumerate(_numbered(400))]
    data = _holding_out(tmp_path, records, 0.1, Kind.CLASSIFICATION)
    assert (len(data.train), len(data.selection)) == (324, 36)
    groups = [{int(text.split()[1]) // 4 for text in _texts(own)} for own in (data.train, data.selection)]
    assert not groups[0] & groups[1]
    everything = _holding_out(tmp_path, records, 0.1, Kind.CLASSIFICATION, selection=0)
    assert everything.selection == ()
    assert set(everything.train) == {*data.train, *data.selection}
    capped = _holding_out(tmp_path, records, 0.1, Kind.CLASSIFICATION, cap=200)
    assert len(capped.selection) == pytest.approx(20, abs=3)
    assert len(capped.train) + len(capped.selection) == 200
    assert _holding_out(tmp_path, records, 0.1, Kind.CLASSIFICATION, cap=99).selection == ()
    many = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(12_000)]
    assert len(_holding_out(tmp_path, many, 0.01, Kind.CLASSIFICATION).selection) == 1_000


def test_one_group_is_trained_on_whole(tmp_path: Path) -> None:
    """Where nothing can be kept without tearing a group apart, there is no selection."""
    toy.write_records(tmp_path / "train.jsonl", [{**record, "group": 1} for record in _numbered(150)])
    toy.write_records(tmp_path / "validation.jsonl", _numbered(150)[:20])
    entry = {"name": "task", "kind": "classification", "train": "train.jsonl", "validation": "validation.jsonl"}
    data = load_task(TaskConfig.model_validate(entry), tmp_path)
    assert (len(data.train), data.selection) == (150, ())


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.RANKING])
def test_equal_inputs_are_on_one_side(tmp_path: Path, kind: Kind) -> None:
    """No input is both trained on and held out, whatever its case and blanks, and no text of a pair in two pairs."""
    records = [
        {**record, "tokens": [*record["tokens"], str(n)]} if kind is Kind.TAGGING else {**record, "text": f"text {n}"}
        for n, record in enumerate(toy.records(kind, 40))
    ]
    if kind is Kind.TAGGING:
        records = [{**record, "tags": [*record["tags"], "O"]} for record in records]
        twice = [{**record, "tokens": [token.upper() for token in record["tokens"]]} for record in records]
    else:
        twice = [{**record, "text": f" {record['text'].upper()} "} for record in records]
    data = _holding_out(tmp_path, [*records, *twice], 0.3, kind)
    sides = [
        {" ".join(example.input.text.casefold().split()) for example in own} for own in (data.train, data.validation)
    ]
    assert not sides[0] & sides[1]
    assert len(data.validation) == pytest.approx(24, abs=4)


def test_rankings_of_one_query_are_on_one_side(tmp_path: Path) -> None:
    """Two groups with the same query are both trained on or both held out."""
    records = toy.records(Kind.RANKING, 30)
    twice = [{**record, "group": f"again {record['group']}"} for record in records]
    data = _holding_out(tmp_path, [*records, *twice], 0.2, Kind.RANKING)
    assert not {example.input.text for example in data.train} & {example.input.text for example in data.validation}
    assert len(data.validation) == 12


def test_texts_that_all_pairs_share_do_not_prevent_a_split(tmp_path: Path) -> None:
    """Where a text of the pairs is the same everywhere, equal pairs stay together, and what texts share is said."""
    records = [{"text": "a cat?", "text_pair": f"text {n // 2}", "label": "xy"[n % 2]} for n in range(60)]
    data = _holding_out(tmp_path, records, 0.2, Kind.CLASSIFICATION)
    sides = [{example.input.text_pair for example in own} for own in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(data.validation) == 12
    assert any("some held-out texts are in train" in note for note in data.notes)


# Grades of relevance


def _graded(*labels: object, queries: int = 4) -> list[toy.Record]:
    return [
        {"group": f"q{query}", "text": f"query {query}", "text_pair": f"answer {label}", "label": label}
        for query in range(queries)
        for label in labels
    ]


def test_grades_are_shares_of_the_highest(tmp_path: Path) -> None:
    """Whole numbers from 0 to more than 1 are grades, measured by nDCG, in numbers and in text."""
    for labels in ((0, 1, 3), (0.0, 1.0, 3.0), ("0", "1", "3")):
        data = _load(tmp_path, Kind.RANKING, _graded(*labels))
        assert data.train[0].target == (0.0, 1 / 3, 1.0)
        assert data.config.metric == "ndcg"
        assert data.notes == ("labels are grades of relevance, 0, 1, 3: learnt as shares of 3",)
    assert _load(tmp_path, Kind.RANKING, _graded(0, 1, 3), metric="mrr").config.metric == "mrr"


def test_one_right_label_makes_no_grades(tmp_path: Path) -> None:
    """Two labels, or a `positive` in the recipe, are right and wrong candidates."""
    assert _load(tmp_path, Kind.RANKING, _graded(0, 1)).config.metric is None
    assert _load(tmp_path, Kind.RANKING, _graded(0, 1, 3), positive=3).train[0].target == (0.0, 0.0, 1.0)
    assert _load(tmp_path, Kind.RANKING, _graded("no", "yes"), positive="yes").train[0].target == (0.0, 1.0)
    assert _load(tmp_path, Kind.RANKING, _graded("0.0", "1.0 ")).train[0].target == (0.0, 1.0)
    with pytest.raises(DataError, match=r"train.jsonl:\d+: label: -1 is below 0, where grades of relevance begin"):
        _load(tmp_path, Kind.RANKING, _graded(-1, 1, 2))


def test_a_ranking_that_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    """Validation whose queries have only right or only wrong candidates is refused, and single ones are counted."""
    useless = [*_graded(1, 1, queries=1), *({**r, "group": "n", "text": "n"} for r in _graded(0, 0, queries=1))]
    with pytest.raises(DataError, match=r"\Avalidation.jsonl: nothing can be measured"):
        _load(tmp_path, Kind.RANKING, _graded(0, 1), useless)
    mixed = _load(tmp_path, Kind.RANKING, _graded(0, 1), [*useless, {**useless[0], "label": 0}])
    assert mixed.notes[0].startswith("1 of 2 queries of validation.jsonl are not measured")
    assert "warning: map and mrr of validation.jsonl are 0" in str(
        _load(tmp_path, Kind.RANKING, _graded(1, 2, 5)).notes
    )
    assert "map and mrr" not in str(_load(tmp_path, Kind.RANKING, _graded(0, 1, 2)).notes)


# Broken records


@pytest.mark.parametrize(
    ("kind", "train", "broken", "config", "message"),
    [
        (Kind.CLASSIFICATION, {"text": "a", "label": "x"}, {"text": "a", "text_pair": "b", "label": "x"}, {}, "unexp"),
        (
            Kind.CLASSIFICATION,
            {"text": "a", "text_pair": "b", "label": "x"},
            {"text": "a", "label": "x"},
            {},
            "missing",
        ),
        (Kind.CLASSIFICATION, {"text": "a", "label": "x"}, {"text": "a", "label": "w"}, {}, "label 'w' is not one of"),
        (Kind.MULTILABEL, {"text": "a", "labels": ["x"]}, {"text": "a", "labels": ["x", "w"]}, {}, "label 'w' is not"),
        (
            Kind.REGRESSION,
            {"text": "a", "label": 1},
            {"text": "a", "label": 5.5},
            {"value_range": [0, 5]},
            "label 5.5 is outside the task's range 0.0 to 5.0",
        ),
        (
            Kind.TAGGING,
            {"tokens": ["a"], "tags": ["x"]},
            {"tokens": ["a", "b"], "tags": ["y", "B-w"]},
            {},
            "label 'B-w' is not",
        ),
        (
            Kind.RANKING,
            {"group": "g", "text": "a", "text_pair": "b", "label": 1},
            {"text": "a", "text_pair": "b", "label": 0},
            {},
            "group: no text or number",
        ),
        (
            Kind.RANKING,
            {"group": "g", "text": "a", "text_pair": "b", "label": 1},
            {"group": ["g"], "text": "a", "text_pair": "b", "label": 0},
            {},
            "group: no text or number",
        ),
        (
            Kind.RANKING,
            {"group": "g", "text": "a", "text_pair": "b", "label": 1},
            {"group": "g", "text": "other", "text_pair": "b", "label": 0},
            {},
            "text: differs from the query of its group 'g'",
        ),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_record_that_does_not_fit_its_task_is_named(
    tmp_path: Path, kind: Kind, train: Any, broken: Any, config: dict[str, Any], message: str, split: str
) -> None:
    """A valid record that contradicts its task is named by file and line, in both files."""
    if kind in {Kind.CLASSIFICATION, Kind.MULTILABEL, Kind.TAGGING}:
        config = {"labels": ["x", "y"], **config}
    files = {"train": [train], "validation": [train], split: [train, broken]}
    with pytest.raises(DataError, match=rf"\A{tmp_path}/{split}.jsonl:2: .*{message}"):
        _load(tmp_path, kind, files["train"], files["validation"], **config)


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    """With `on_bad_row = "skip"` rows that are no records or do not fit are left out, counted and named."""
    good = _numbered(200)
    bad = [{"text": "a"}, {"text": "b", "text_pair": "c", "label": "x"}]
    data = _load(
        tmp_path, Kind.CLASSIFICATION, [*good, *bad], [*good[:20], {"text": "d", "label": "w"}], on_bad_row="skip"
    )
    plain = _load(tmp_path, Kind.CLASSIFICATION, good, good[:20])
    assert (data.train, data.validation, data.bad_rows) == (plain.train, plain.validation, 3)
    (note,) = data.notes
    assert note.startswith("warning: 3 of 223 rows are left out:\n")
    for number, file in ((201, "train"), (202, "train"), (21, "validation")):
        assert f"\n{tmp_path / file}.jsonl:{number}: " in note


def test_a_query_with_a_bad_row_is_left_out_whole(tmp_path: Path) -> None:
    """With `on_bad_row = "skip"` a ranking loses the queries of bad rows, as one without its right answer would mislead."""
    good = [
        {"group": f"q{number}", "text": f"query {number}", "text_pair": f"answer {label}", "label": label}
        for number in range(100)
        for label in (0, 1)
    ]
    invalid = good[3] | {"text_pair": ""}
    other_query = good[5] | {"text": "something else"}
    train = [*good[:3], invalid, good[4], other_query, *good[6:]]
    data = _load(tmp_path, Kind.RANKING, train, good, on_bad_row="skip")
    assert data.train == _load(tmp_path, Kind.RANKING, [*good[:2], *good[6:]], good).train
    assert data.bad_rows == 4
    assert "train.jsonl:3: another candidate of its query is a bad row" in data.notes[-1]


def test_rows_of_a_table_that_are_not_text_are_left_out(tmp_path: Path) -> None:
    """Rows of a CSV file with bytes that are not UTF-8 are bad rows as any, and nothing of them is trained on."""
    (tmp_path / "a.csv").write_bytes(b'text,label\na,x\ncaf\xe9,x\n"two\n\xff lines",y\nb,y\n')
    with pytest.raises(DataError, match=r"(?s)a.csv:3: not UTF-8: .*a.csv:4: not UTF-8: "):
        _load(tmp_path, Kind.CLASSIFICATION, [], _numbered(2), train="a.csv")
    data = _load(tmp_path, Kind.CLASSIFICATION, [], _numbered(2), train="a.csv", on_bad_row="skip", bad_row_limit=1)
    assert (_texts(data.train), data.bad_rows) == (["a", "b"], 2)
    (tmp_path / "a.csv").write_bytes("text,label\na,x\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"\A\S*a.csv:1: not UTF-8: .*\Z"):
        _load(tmp_path, Kind.CLASSIFICATION, [], _numbered(2), train="a.csv")


def test_too_many_bad_rows_stop_the_run(tmp_path: Path) -> None:
    """More bad rows than `bad_row_limit` are an error with their number and lines."""
    rows = [*_numbered(90), *[{"text": "a"}] * 10]
    for options in ({}, {"bad_row_limit": 0.09}):
        with pytest.raises(
            DataError, match=r"20 of 200 rows are bad, more than bad_row_limit = (.|\n)*train.jsonl:91: "
        ):
            _load(tmp_path, Kind.CLASSIFICATION, rows, on_bad_row="skip", **options)
    assert _load(tmp_path, Kind.CLASSIFICATION, rows, on_bad_row="skip", bad_row_limit=0.1).bad_rows == 20
    (tmp_path / "a.csv").write_text('text,label\na,x\nb,y\n"c,x\n', encoding="utf-8")
    with pytest.raises(DataError, match="not a valid table from here on"):
        _load(tmp_path, Kind.CLASSIFICATION, rows, train="a.csv", on_bad_row="skip", bad_row_limit=1)


def test_a_ranking_needs_something_relevant(tmp_path: Path) -> None:
    """If no record of a file has the recipe's positive label, the error names file and label."""
    records = [{"group": "g", "text": "a", "text_pair": text, "label": text} for text in ("yes", "no")]
    with pytest.raises(DataError, match=rf"\A{tmp_path}/train.jsonl: label: no record .* positive 'Yes'"):
        _load(tmp_path, Kind.RANKING, records, positive="Yes")


_TEXT, _PAIR, _CANDIDATES = {"text": "a"}, {"text": "a", "text_pair": "b"}, {"text": "a", "candidates": ["b", "c"]}


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Kind.CLASSIFICATION, _TEXT, (_PAIR, _CANDIDATES, {"text": ""})),
        (Kind.REGRESSION, _PAIR, (_TEXT, _CANDIDATES)),
        (Kind.RANKING, _CANDIDATES, (_TEXT, _PAIR, {**_TEXT, "candidates": []}, _PAIR | _CANDIDATES)),
        (Kind.MULTIPLE_CHOICE, _CANDIDATES, (_TEXT, _PAIR)),
        (Kind.TAGGING, _TEXT, (_PAIR, _CANDIDATES)),
        (Kind.SPAN, _PAIR, (_TEXT, _CANDIDATES)),
    ],
)
def test_the_recipes_examples_have_the_fields_of_their_kind(
    tmp_path: Path, kind: Kind, right: toy.Record, wrong: Sequence[toy.Record]
) -> None:
    """An example in the recipe with the wrong fields for its task raises DataError."""
    records = toy.records(kind, 6)
    assert len(_load(tmp_path, kind, records, examples=[right, right]).config.examples) == 2
    for example in wrong:
        with pytest.raises(DataError, match=r"\Atask 'task', example .*: needs the fields [a-z_, ]* and no other\Z"):
            _load(tmp_path, kind, records, examples=[right, example])
    blank = {**right, "text": "  "}
    with pytest.raises(DataError, match=r"\Atask 'task', example '  ': must not have a blank text\Z"):
        _load(tmp_path, kind, records, examples=[blank])


def test_a_label_of_validation_must_be_known_from_training(tmp_path: Path) -> None:
    """A validation record with a label that training lacks is named in the error."""
    train = [{"text": "a", "label": "x"}, {"text": "a", "label": "y"}]
    new = [{"text": "a", "label": "w"}, {"text": "a", "label": "v"}]
    with pytest.raises(DataError) as caught:
        _load(tmp_path, Kind.CLASSIFICATION, train, [*train, *new])
    positions = [f"{tmp_path}/validation.jsonl:{number}: label {label!r}" for number, label in ((3, "w"), (4, "v"))]
    assert all(line.startswith(index) for line, index in zip(str(caught.value).splitlines(), positions, strict=True))


def test_a_value_of_validation_must_be_in_the_range(tmp_path: Path) -> None:
    """Without a range in the recipe, a validation value outside the training values is an error."""
    train = [{"text": "a", "label": 1}, {"text": "a", "label": 2}]
    with pytest.raises(DataError, match=r"validation.jsonl:1: label 3.0 is outside the task's range 1.0 to 2.0"):
        _load(tmp_path, Kind.REGRESSION, train, [{"text": "a", "label": 3}])


def test_both_files_of_a_task_are_reported(tmp_path: Path) -> None:
    """Records that do not fit, in training and validation, are in the same error."""
    pair = {"text": "a", "text_pair": "b", "label": "x"}
    train = [{"text": "a", "label": "x"}, {"text": "a", "label": "y"}, pair]
    with pytest.raises(DataError, match=r"train.jsonl:3: text_pair(.|\n)*validation.jsonl:1: text_pair"):
        _load(tmp_path, Kind.CLASSIFICATION, train, [pair])


# Rows


def _encode(task: Task, *examples: Example) -> list[EncodedExample]:
    return encode_examples(ENCODER, task, 4, examples)


@pytest.mark.parametrize("kind", Kind)
def test_rows_are_those_that_are_served(tmp_path: Path, kind: Kind) -> None:
    """Training encodes an input to the same rows as serving, with the id of its task."""
    data = _load(tmp_path, kind, toy.records(kind, 6))
    encoded = _encode(data.task, *data.train)
    rows = ENCODER.encode(data.task, [example.input for example in data.train])
    assert [example.encodings for example in encoded] == rows
    assert {example.task_id for example in encoded} == {4}
    assert [example.longest for example in encoded] == [max(map(len, own)) for own in rows]
    if kind not in {Kind.TAGGING, Kind.SPAN}:
        assert [example.target for example in encoded] == [example.target for example in data.train]


TAGGING = Task("tags", Kind.TAGGING, 12, labels=("a", "b", "c"))


@given(
    st.lists(st.tuples(st.text("abcx.-'", min_size=1, max_size=8), st.integers(0, 2)), min_size=1, max_size=12),
)
def test_tags_stay_with_their_words_under_truncation(words: list[tuple[str, int]]) -> None:
    """After truncation, the labels are those of the remaining words, at each word's first piece."""
    item = Input.from_words([word for word, _ in words])
    (encoded,) = _encode(TAGGING, Example(item, tuple(label for _, label in words)))
    (row,) = encoded.encodings
    kept = len(row.positions)
    assert encoded.target == tuple(label for _, label in words[:kept])
    assert kept >= 1
    for index, (start, end) in zip(row.positions, row.offsets, strict=True):
        first_piece = tiny.tokenizer().encode(item.text[start:end], add_special_tokens=False).ids[0]
        assert row.input_ids[index] == first_piece


def test_a_text_without_words_is_left_out() -> None:
    """Words without tokens lose their labels, and an example without any token is left out."""
    examples = [Example(Input.from_words(words), tuple(range(len(words)))) for words in (["\x00"], ["\x00", "cat"])]
    assert [encoded.target for encoded in _encode(TAGGING, *examples)] == [(1,)]


SPAN = Task("answer", Kind.SPAN, 16, pair=True)


@given(st.data())
def test_span_targets_are_the_tokens_that_the_answer_touches(data: st.DataObject) -> None:
    """A span target covers exactly the answer's tokens; an example with a truncated answer is left out."""
    words = data.draw(st.lists(st.sampled_from(["cat", "paris", "abc", ".", "x"]), min_size=1, max_size=12))
    context = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    start, end = len(" ".join([*words[:first], ""])), len(" ".join(words[: last + 1]))
    encoded = _encode(SPAN, Example(Input("the cat?", context), ((start, end),)))
    pieces = ENCODER.encode(Task("long", Kind.SPAN, 64, pair=True), [Input("the cat?", context)])[0][0]
    needed = [i for i, (left, right) in enumerate(pieces.offsets) if left < end and right > start]
    if not encoded:
        kept = ENCODER.encode(SPAN, [Input("the cat?", context)])[0][0].offsets
        assert needed[-1] >= len(kept)
        return
    assert encoded[0].target == (needed[0], needed[-1])
    offsets = encoded[0].encodings[0].offsets
    assert (offsets[needed[0]][0], offsets[needed[-1]][1]) == (start, end)


def test_the_first_answer_that_is_whole_is_learned() -> None:
    """The target is the first answer that truncation left complete; without one the example is left out."""
    context = "cat " * 20 + "paris"
    late, cut, early = (80, 85), (36, 82), (4, 7)
    (encoded,) = _encode(SPAN, Example(Input("the", context), (late, cut, early)))
    assert encoded.target == (1, 1)
    assert not _encode(SPAN, Example(Input("the", context), (late, cut)))


def test_a_part_of_a_word_is_learned_as_its_piece() -> None:
    """The target of an answer within a word is the pieces that contain it."""
    (encoded,) = _encode(SPAN, Example(Input("the", "abc cat"), ((1, 2),)))
    assert encoded.target == (1, 1)


@pytest.mark.parametrize("context", ["the cat sat. ", "the cat  sat", "the cat\x00 sat"])
def test_blanks_around_an_answer_do_not_matter(context: str) -> None:
    """An answer that begins or ends with characters outside all tokens still counts as complete."""
    start = context.index("cat")
    for first, stop in ((start - 1, start + 4), (start, len(context))):
        (encoded,) = _encode(SPAN, Example(Input("the", context), ((first, stop),)))
        assert encoded.target[0] == 1
