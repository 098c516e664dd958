"""Request options over HTTP: options, errors per item, and several tasks in one call."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytask.model.encoding import InputEncoder
from polytask.model.tasks import Kind
from polytask.service.api.schemas import from_input
from tests.service.support import checkpoints
from tests.service.support.doubles import GatedBackend
from tests.service.support.serving import Service, hold, serving, until
from tests.support import tiny

pytestmark = pytest.mark.anyio

TASKS = {task.name: task for task in tiny.tasks()}
EXAMPLES: dict[str, Any] = {name: from_input(TASKS[name], item) for name, item in tiny.inputs().items()}
LONG = "the cat sat. good! " * 30

LONG_INPUTS: dict[str, Any] = {
    "mood": LONG,
    "topics": LONG,
    "closeness": {"text": LONG, "text_pair": "a cat"},
    "relevance": {"query": "which cat?", "candidates": ["a cat", LONG, "paris"]},
    "choice": {"text": LONG, "choices": ["sat", "paris"]},
    "entities": LONG + "Paris",
    "answer": {"question": "where?", "context": LONG + "Paris"},
}


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio."""
    return "asyncio"


async def post(service: Service, path: str, **body: Any) -> dict[str, Any]:
    """The response to a body that is accepted."""
    response = await service.client.post(path, json=body)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def answers(service: Service, task: str, *inputs: Any, **rest: Any) -> list[Any]:
    """The answers of a task."""
    found = (await post(service, f"/v1/tasks/{task}/predict", inputs=inputs, **rest))["answers"]
    assert isinstance(found, list)
    return found


def refusal(response: httpx.Response) -> str:
    """The detail of the refusal of a malformed body."""
    assert response.status_code == 422, response.text
    return str(response.json()["detail"])


@pytest.mark.parametrize("truncation", ["longest_first", "right", "left", "error", "window"])
@pytest.mark.parametrize("task", TASKS)
async def test_truncation_does_not_change_answers_to_short_inputs(task: str, truncation: str) -> None:
    """For an input that fits, the response with any `truncation` is byte-identical to the one without."""
    async with serving() as service:
        url = f"/v1/tasks/{task}/predict"
        default = await service.client.post(url, json={"inputs": [EXAMPLES[task]]})
        found = await service.client.post(url, json={"inputs": [EXAMPLES[task]], "options": {"truncation": truncation}})
    assert found.status_code == 200
    assert found.content == default.content


async def test_windows_do_not_change_answers_to_any_short_text() -> None:
    """For any text that fits, the response with windows is byte-identical to the one without."""
    async with serving() as service:
        loop = asyncio.get_running_loop()

        @settings(deadline=None, max_examples=40)
        @given(
            st.sampled_from(["mood", "topics", "entities"]),
            st.lists(st.sampled_from(["cat", "Paris", "sat", "."]), min_size=1, max_size=30).map(" ".join),
        )
        def compare(task: str, text: str) -> None:
            def ask(**rest: Any) -> bytes:
                call = service.client.post(f"/v1/tasks/{task}/predict", json={"inputs": [text], **rest})
                return asyncio.run_coroutine_threadsafe(call, loop).result().content

            assert ask(options={"truncation": "window"}) == ask()

        await asyncio.to_thread(compare)


@pytest.mark.parametrize("task", TASKS)
async def test_truncation_of_long_inputs(task: str) -> None:
    """By default a long input is cut, which the answer says; `error` refuses it with its size; windows read all of it."""
    async with serving() as service:
        (cut,) = await answers(service, task, LONG_INPUTS[task])
        (left,) = await answers(service, task, LONG_INPUTS[task], options={"truncation": "left"})
        (whole,) = await answers(service, task, LONG_INPUTS[task], options={"truncation": "window"})
        url = f"/v1/tasks/{task}/predict"
        body = {"inputs": [EXAMPLES[task], LONG_INPUTS[task]], "options": {"truncation": "error"}}
        detail = refusal(await service.client.post(url, json=body))
    assert cut["dropped_tokens"] == left["dropped_tokens"] > 0
    assert cut["tokens"] == left["tokens"] < whole["tokens"]
    assert whole["dropped_tokens"] == 0
    assert cut.keys() == whole.keys() == left.keys()
    assert detail.startswith("inputs[1]: has ")
    assert f"tokens{' in a row' if task in {'relevance', 'choice'} else ''}, the limit of '{task}' is" in detail


async def test_windows_find_entities_and_spans_beyond_the_limit() -> None:
    """Positions of entities and spans count characters of the client's text, however far they are beyond the first row."""
    async with serving() as service:
        (tagged,) = await answers(service, "entities", LONG_INPUTS["entities"], options={"truncation": "window"})
        (cut,) = await answers(service, "entities", LONG_INPUTS["entities"])
        (span,) = await answers(service, "answer", LONG_INPUTS["answer"], options={"truncation": "window"})
    text, context = LONG_INPUTS["entities"], LONG_INPUTS["answer"]["context"]
    assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in tagged["entities"])
    assert max(entity["end"] for entity in tagged["entities"]) > max(entity["end"] for entity in cut["entities"])
    assert context[span["start"] : span["end"]] == span["text"]


@pytest.mark.parametrize("task", TASKS)
async def test_every_token_is_read_once_in_windows(task: str) -> None:
    """The tokens of all rows are those of the texts, each with its input field and characters."""
    options = {"truncation": "window", "return_tokens": True}
    async with serving() as service:
        (found,) = await answers(service, task, LONG_INPUTS[task], options=options)
        (short,) = await answers(service, task, EXAMPLES[task], options=options)
    given_input = LONG_INPUTS[task]
    fields = {"text": given_input} if isinstance(given_input, str) else dict(given_input)
    for name in ("candidates", "choices"):
        fields |= {f"{name}[{index}]": text for index, text in enumerate(fields.pop(name, ()))}
    read = {(token["field"], token["start"], token["end"], token["token"]) for row in found["read"] for token in row}
    tokenizer = tiny.tokenizer()
    assert read == {
        (name, *characters, token)
        for name, text in fields.items()
        for encoded in [tokenizer.encode(text, add_special_tokens=False)]
        for characters, token in zip(encoded.offsets, encoded.tokens, strict=True)
    }
    specials = 3 if TASKS[task].pair else 2
    for answer in (found, short):
        assert answer["tokens"] == sum(len(row) + specials for row in answer["read"])


async def test_fewer_scores_and_logits() -> None:
    """`top_k` keeps the highest scores of the default answer, and `raw_scores` returns logits; a task of another kind refuses `top_k`."""
    async with serving() as service:
        (default,) = await answers(service, "mood", "the cat")
        (first,) = await answers(service, "mood", "the cat", options={"top_k": 1})
        (raw,) = await answers(service, "mood", "the cat", options={"raw_scores": True})
        (ranking,) = await answers(service, "relevance", EXAMPLES["relevance"], options={"top_k": 2})
        body = {"inputs": ["a"], "options": {"top_k": 1}}
        detail = refusal(await service.client.post("/v1/tasks/entities/predict", json=body))
    assert first["scores"] == {default["label"]: default["score"]}
    assert list(raw["scores"]) == list(default["scores"])
    assert sum(raw["scores"].values()) != pytest.approx(1)
    assert len(ranking["ranking"]) == 2
    assert detail == (
        "options.top_k: means nothing to 'entities' (tagging): it is for tasks of kind classification, multilabel, ranking"
    )


async def test_none_of_these() -> None:
    """With a limit over every probability the label is null, in tensors an empty text; the scores stay."""
    options = {"min_confidence": 1}
    async with serving(prediction_metrics=True) as service:
        (usual,) = await answers(service, "mood", "cat")
        (found,) = await answers(service, "mood", "cat", options=options)
        assert await service.metric(f'polytask_predictions_total{{label="{usual["label"]}",task="mood"}}') == 1
        texts = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["cat"]}]
        tensors = await post(service, "/v2/models/mood/infer", inputs=texts, parameters=options)
        info = (await service.client.get("/v1/tasks/mood")).json()
    assert found == usual | {"label": None}
    assert {tensor["name"]: tensor["data"] for tensor in tensors["outputs"]}["label"] == [""]
    assert info["min_confidence"] is None


async def test_thresholds_of_the_client() -> None:
    """A threshold of 0 gives every label and of 1 none; an unknown label is named."""
    async with serving() as service:
        (every,) = await answers(
            service, "topics", "cat", options={"thresholds": dict.fromkeys(("cats", "cities", "food"), 0)}
        )
        (none,) = await answers(
            service, "topics", "cat", options={"thresholds": dict.fromkeys(("cats", "cities", "food"), 1)}
        )
        body = {"inputs": ["a"], "options": {"thresholds": {"cat": 1}}}
        detail = refusal(await service.client.post("/v1/tasks/topics/predict", json=body))
    assert [entry["label"] for entry in every["labels"]] == list(every["scores"])
    assert none["labels"] == []
    assert detail == "options.thresholds.cat: is no label; did you mean 'cats'?"


@pytest.mark.parametrize("task", TASKS)
async def test_an_invalid_item_does_not_affect_others(task: str) -> None:
    """With errors per item the valid inputs have the answers that they have without the invalid ones."""
    good, bad = EXAMPLES[task], {"nothing": 1}
    options = {"truncation": "error"}
    async with serving() as service:
        alone = await answers(service, task, good)
        found = await answers(service, task, bad, good, LONG_INPUTS[task], 5, good, options=options, errors="per_item")
        nothing = await post(service, f"/v1/tasks/{task}/predict", inputs=[bad, 5], errors="per_item")
        refused = await service.client.post(f"/v1/tasks/{task}/predict", json={"inputs": [good, bad]})
    assert [index for index, answer in enumerate(found) if "error" in answer] == [0, 2, 3]
    assert close([found[1], found[4]], [alone[0], alone[0]])
    for index in (0, 2, 3):
        problem = found[index]["error"]
        assert (problem["type"], problem["status"]) == ("urn:polytask:invalid-input", 422)
        assert problem["errors"][0]["field"].startswith(f"inputs[{index}]")
    assert [list(answer) for answer in nothing["answers"]] == [["error"], ["error"]]
    assert nothing["usage"] == {"inputs": 2, "rows": 0, "tokens": 0}
    assert refusal(refused).startswith("inputs[1]")


def close(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal, with a tolerance for numbers that depend on the batch."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(close(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(close, first, second))
    return bool(first == pytest.approx(second, abs=1e-4)) if isinstance(first, float) else bool(first == second)


async def test_several_tasks_answer_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for several tasks has the same answers as a call for each, and tokenises the texts once."""
    tokenised: list[str] = []
    default = InputEncoder._tokenise

    def counted(encoder: InputEncoder, texts: Any, *options: Any) -> Any:
        tokenised.extend(texts)
        return default(encoder, texts, *options)

    inputs, tasks = ["The cat sat in Paris.", LONG, {"text": "good"}], ["mood", "entities", "topics"]
    for rest in ({}, {"options": {"truncation": "window", "return_tokens": True}}):
        async with serving() as service:
            alone = {task: await answers(service, task, *inputs, **rest) for task in tasks}
            with monkeypatch.context() as patched:
                patched.setattr(InputEncoder, "_tokenise", counted)
                found = await post(service, "/v1/predict", tasks=tasks, inputs=inputs, **rest)
        assert list(found) == ["model", "results", "usage"]
        assert list(found["results"]) == tasks
        assert close({task: result["answers"] for task, result in found["results"].items()}, alone)
        tokens = sum(answer["tokens"] for result in found["results"].values() for answer in result["answers"])
        assert found["usage"]["tokens"] == tokens
        assert found["usage"]["inputs"] == 3
        assert tokenised == ["The cat sat in Paris.", LONG, "good"]
        tokenised.clear()


async def test_several_tasks_may_refuse_each_its_own_items() -> None:
    """An item that is too long for one task is answered by another task with a larger limit."""
    text = "cat " * 40
    pair = {"text": text, "text_pair": "cat"}
    async with serving() as service:
        found = await post(
            service,
            "/v1/predict",
            tasks=["mood", "topics"],
            inputs=[text, "cat", 5],
            options={"truncation": "error"},
            errors="per_item",
        )
        response = await service.client.post("/v1/predict", json={"tasks": ["mood", "closeness"], "inputs": [pair]})
    for result in found["results"].values():
        assert ["error" in answer for answer in result["answers"]] == [True, False, True]
    assert refusal(response).startswith("tasks: do not read the same inputs, so they need calls of their own: 'mood'")


async def test_several_tasks_are_refused_together() -> None:
    """If the queue of one task is full, no row of the request is queued, and both tasks count the refusal."""
    backend = GatedBackend()
    async with serving(backend, task_policies='{"topics": {"max_waiting_tokens": 8}}') as service:
        running = await hold(service, backend)
        body = {"tasks": ["mood", "topics"], "inputs": ["cat"]}
        waiting = asyncio.create_task(service.client.post("/v1/predict", json=body))
        await until(lambda: service.num_waiting() == 2)
        body["inputs"] = ["cat", "paris"]
        refused = await service.client.post("/v1/predict", json=body)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:polytask:task-quota-full"
        assert service.num_waiting() == 2
        for task in ("mood", "topics"):
            assert await service.metric(f'polytask_rejections_total{{reason="task_quota",task="{task}"}}') == 1
        assert await service.metric('polytask_inputs_total{task="topics"}') == 1
        backend.open()
        assert (await waiting).status_code == (await running).status_code == 200
        assert await service.metric('polytask_requests_total{outcome="ok",task="topics"}') == 1
        assert (await service.client.post("/v1/predict", content=b"{}")).status_code == 422
        assert await service.metric('polytask_requests_total{outcome="invalid",task="_unknown"}') == 1


_odd = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["window", "left", "per_item", "cats"])
_options = st.dictionaries(
    st.sampled_from(
        ["top_k", "raw_scores", "truncation", "thresholds", "min_confidence", "windows", "return_tokens", "x"]
    ),
    _odd
    | st.dictionaries(st.sampled_from(["cats", "food", "x"]), _odd, max_size=2)
    | st.sampled_from([1, 10**30, True]),
    max_size=3,
)


async def test_no_option_causes_a_server_error() -> None:
    """Any options for any tasks are answered or refused with a reason."""
    inputs = [*EXAMPLES.values(), LONG, 5, {"tokens": ["cat", " ", "\x00"]}]
    async with serving() as service:
        loop = asyncio.get_running_loop()

        @settings(deadline=None, max_examples=150)
        @given(
            st.lists(st.sampled_from([*TASKS, "x"]), max_size=3),
            st.lists(st.sampled_from(inputs), max_size=3),
            _options | _odd,
            st.sampled_from(["fail", "per_item", "x", None]),
            st.booleans(),
        )
        def post(tasks: list[str], given_inputs: list[Any], options: Any, errors: Any, together: bool) -> None:
            body = {"inputs": given_inputs, "options": options, "errors": errors} | (
                {"tasks": tasks} if together else {}
            )
            url = "/v1/predict" if together else f"/v1/tasks/{tasks[0] if tasks else 'mood'}/predict"
            call = service.client.post(url, content=json.dumps(body))
            response = asyncio.run_coroutine_threadsafe(call, loop).result()
            assert response.status_code in {200, 404, 422}, response.text

        await asyncio.to_thread(post)


async def test_the_documented_examples_work() -> None:
    """Each example request in the OpenAPI document gets the example response beside it."""
    async with serving() as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
        operation = paths["/v1/tasks/{task}/predict"]["post"]
        shown = operation["responses"]["200"]["content"]["application/json"]["examples"]
        for task, example in operation["requestBody"]["content"]["application/json"]["examples"].items():
            found = await post(service, f"/v1/tasks/{task}/predict", **example["value"])
            assert close(found, json.loads(json.dumps(shown[task]["value"])))
        body = paths["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]["together"]
        assert len((await post(service, "/v1/predict", **body["value"]))["results"]) == 2


async def test_a_question_without_an_answer_has_an_empty_one() -> None:
    """Where questions may have no answer, a threshold decides; v2 has a tensor of the probability, and the task says so."""
    tasks = tuple(replace(task, thresholds=(0.5,)) if task.kind is Kind.SPAN else task for task in tiny.tasks())
    usual = checkpoints.in_memory()
    manifest = replace(usual.manifest, tasks=tasks, goldens=())
    checkpoint = replace(usual, network=tiny.network(0, tasks), manifest=manifest)
    async with serving(checkpoint=checkpoint) as service:
        for threshold, is_empty in ((0.0, True), (1.0, False)):
            options = {"thresholds": {"no_answer": threshold}}
            (found,) = await answers(service, "answer", EXAMPLES["answer"], options=options)
            assert (found["text"] == "") is is_empty
            assert 0 < found["no_answer"] < 1
        info = (await service.client.get("/v1/tasks/answer")).json()
        assert info["thresholds"] == {"no_answer": 0.5}
        inputs = [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
            for name, value in EXAMPLES["answer"].items()
        ]
        outputs = (await post(service, "/v2/models/answer/infer", inputs=inputs))["outputs"]
    assert {output["name"]: output["data"] for output in outputs}["no_answer"] == [found["no_answer"]]
