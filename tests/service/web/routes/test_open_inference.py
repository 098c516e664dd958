"""The Open Inference Protocol and KServe's v1: the answers of our own API as tensors or predictions."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import pytest

from tests.service.support.doubles import GatedBackend
from tests.service.support.serving import Service, hold, serving
from tests.service.web.middleware.test_authentication import KEYS
from tests.support import tiny

pytestmark = pytest.mark.anyio

TASKS = {task.name: task for task in tiny.tasks()}

Body = dict[str, Any]


def tensor(name: str, *values: str, shape: list[int] | None = None) -> Body:
    """An input tensor of texts."""
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(values)], "data": list(values)}


def example(task: str) -> list[Body]:
    """The input tensors of the tiny network's example for a task."""
    item = tiny.inputs()[task]
    if task == "relevance":
        return [tensor("query", item.text), tensor("candidates", *item.candidates)]
    if task == "choice":
        return [tensor("text", item.text), tensor("choices", *item.candidates)]
    names = ("question", "context") if task == "answer" else ("text", "text_pair")
    return [tensor(name, text) for name, text in zip(names, (item.text, item.text_pair), strict=True) if text]


async def infer(service: Service, task: str, *inputs: Body, **more: Any) -> httpx.Response:
    """Sends a request with tensors in JSON."""
    return await service.client.post(f"/v2/models/{task}/infer", json={"inputs": inputs, **more})


def outputs(response: httpx.Response) -> dict[str, Any]:
    """The data of the outputs by name, each checked to have the size of its shape."""
    assert response.status_code == 200, response.text
    found = {}
    for output in response.json()["outputs"]:
        size = 1
        for dimension in output["shape"]:
            size *= dimension
        assert len(output["data"]) == size
        found[output["name"]] = output["data"]
    return found


def message(response: httpx.Response, status: int) -> str:
    """The message of an error, checked to have the shape of the protocol."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (found,) = response.json().items()
    assert found[0] == "error"
    return str(found[1])


async def own_answer(service: Service, task: str) -> Body:
    """The answer of our own API to the example."""
    body = (await service.client.get(f"/v1/tasks/{task}")).json()["example"]
    answer: Body = (await service.client.post(f"/v1/tasks/{task}/predict", json=body)).json()["answers"][0]
    return answer


@pytest.mark.parametrize("task", TASKS)
async def test_outputs_are_the_fields_of_answers(task: str) -> None:
    """For each kind of task the outputs are the fields of its answer, and exactly those that its metadata lists."""
    async with serving() as service:
        response = await infer(service, task, *example(task), id="mine")
        answer = await own_answer(service, task)
        metadata = (await service.client.get(f"/v2/models/{task}")).json()
    found = outputs(response)
    assert response.headers["Polytask-Model"] == "tiny/1"
    assert {name: response.json()[name] for name in ("id", "model_name", "model_version")} == {
        "id": "mine",
        "model_name": task,
        "model_version": "1",
    }
    described = [(output["name"], output["datatype"]) for output in metadata["outputs"]]
    assert described == [(output["name"], output["datatype"]) for output in response.json()["outputs"]]
    for name in ("label", "score", "value", "choice", "text", "start", "end", "tokens", "dropped_tokens"):
        if name in answer:
            assert found[name] == [answer[name]]
    if task in {"mood", "topics"}:
        (columns,) = (output["parameters"]["labels"] for output in metadata["outputs"] if output["name"] == "scores")
        assert dict(zip(columns, found["scores"], strict=True)) == answer["scores"]
    if task in {"topics", "entities"}:
        name = {"topics": "labels", "entities": "entities"}[task]
        assert json.loads(found[name][0]) == answer[name]
    if task == "choice":
        assert found["scores"] == answer["scores"]
    if task == "relevance":
        assert found["ranking"] == [ranked["index"] for ranked in answer["ranking"]]
        assert [found["scores"][index] for index in found["ranking"]] == [each["score"] for each in answer["ranking"]]


async def test_rows_of_tensors_are_inputs() -> None:
    """Shapes [N], [N, 1] and nested data are N inputs; lists are the rows of [N, C]; outputs have a row per input, in order."""
    texts = ["a good cat", "bad", "paris"]
    async with serving() as service:
        flat = outputs(await infer(service, "mood", tensor("text", *texts)))
        column = tensor("text", shape=[3, 1]) | {"data": [[text] for text in texts]}
        nested = outputs(await infer(service, "mood", column))
        alone = [outputs(await infer(service, "mood", tensor("text", text))) for text in texts]
        choices = tensor("choices", "a", "b", "c", "d", shape=[2, 2])
        both = await infer(service, "choice", tensor("text", "the cat", "a cat"), choices)
    assert flat == nested
    assert flat["label"] == [each["label"][0] for each in alone]
    assert flat["scores"] == pytest.approx([score for each in alone for score in each["scores"]], abs=1e-4)
    assert [output["shape"] for output in both.json()["outputs"]][:3] == [[2], [2], [2, 2]]


async def test_only_requested_outputs_are_sent() -> None:
    """`outputs` selects tensors and their order; `parameters` are options."""
    async with serving() as service:
        found = outputs(await infer(service, "mood", tensor("text", "cat"), outputs=[{"name": "score"}]))
        raw = outputs(await infer(service, "mood", tensor("text", "cat"), parameters={"raw_scores": True}))
    assert list(found) == ["score"]
    assert sum(raw["scores"]) != pytest.approx(1, abs=0.01)


async def test_parameters_say_what_windows_score_together() -> None:
    """With `windows` `best` no label of a long text scores less than with the mean, and some label more."""
    scores = {}
    async with serving() as service:
        for windows in ("best", "mean"):
            parameters = {"truncation": "window", "windows": windows}
            text = tensor("text", "the cat sat in Paris. " * 60 + "a bad good " * 40)
            scores[windows] = outputs(await infer(service, "topics", text, parameters=parameters))["scores"]
    pairs = list(zip(scores["best"], scores["mean"], strict=True))
    assert all(best >= mean for best, mean in pairs)
    assert any(best > mean for best, mean in pairs)


def packed(*texts: bytes) -> bytes:
    """Texts as the elements of a binary tensor."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


async def binary(service: Service, head: Body, data: bytes, length: str | None = None) -> httpx.Response:
    """Sends a request with tensors after the JSON."""
    start = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(start))}
    return await service.client.post("/v2/models/mood/infer", content=start + data, headers=headers)


def head(size: int, rows: int = 2, **more: Any) -> Body:
    """The JSON before a binary tensor."""
    parameters = {"binary_data_size": size}
    return {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [rows], "parameters": parameters}], **more}


async def test_tensors_may_be_bytes_after_the_json() -> None:
    """Requests and responses may have bytes, output by output, with the same values as in JSON."""
    data = packed("a good cät".encode(), b"bad")
    requested = [{"name": name, "parameters": {"binary_data": True}} for name in ("label", "tokens", "scores")]
    requested[0]["parameters"] = {"binary_data": False}
    async with serving() as service:
        plain = outputs(await infer(service, "mood", tensor("text", "a good cät", "bad")))
        json_back = outputs(await binary(service, head(len(data)), data))
        response = await binary(service, head(len(data), outputs=requested), data)
    assert json_back == plain
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers["Inference-Header-Content-Length"])
    label, tokens, scores = json.loads(response.content[:length])["outputs"]
    assert label["data"] == plain["label"]
    assert (tokens["parameters"], scores["parameters"]) == ({"binary_data_size": 8}, {"binary_data_size": 24})
    found = struct.unpack("<2i6f", response.content[length:])
    assert list(found[:2]) == plain["tokens"]
    assert found[2:] == pytest.approx(plain["scores"], abs=1e-6)


async def test_broken_bytes_are_refused() -> None:
    """Binary data that contradicts its sizes or is not UTF-8 is 400 with the reason."""
    data = packed(b"good", b"bad")
    async with serving() as service:
        cases = {
            "at most": await binary(service, head(len(data)), data, "9999"),
            "number of bytes": await binary(service, head(len(data)), data, "-1"),
            "are left": await binary(service, head(len(data) + 1), data),
            "belong to no input": await binary(service, head(len(data)), data + b"?"),
            "cut off": await binary(service, head(len(data) - 1), data[:-1]),
            "one or two sizes": await binary(service, head(len(data), rows=3), data),
            "not UTF-8": await binary(service, head(6, rows=1), packed(b"\xff\xfe")),
            "either data": await binary(
                service, {"inputs": [tensor("text", "a") | head(5)["inputs"][0]]}, packed(b"a")
            ),
        }
    for words, response in cases.items():
        assert words in message(response, 400)


@pytest.mark.parametrize(
    ("inputs", "more", "words"),
    [
        ([], {}, "inputs: must have at least 1 item"),
        ([tensor("text", "")], {}, "inputs[0]"),
        ([tensor("txt", "a")], {}, "inputs[0].text: is required"),
        ([tensor("text", "a"), tensor("text", "b")], {}, "is there twice"),
        ([tensor("text", "a"), tensor("text_pair", "b", "c")], {}, "a row for each input"),
        ([tensor("text", "a") | {"datatype": "FP32"}], {}, "must be BYTES"),
        ([tensor("text", "a") | {"data": [1.5]}], {}, "inputs[0].data[0]: Expected"),
        ([tensor("text", "a") | {"shape": [-1]}], {}, "one or two sizes"),
        ([tensor("text", "a") | {"shape": []}], {}, "one or two sizes"),
        ([tensor("text", "a")], {"outputs": [{"name": "logits"}]}, "outputs: label, score, scores, tokens"),
        (
            [tensor("text", "a")],
            {"outputs": [{"name": "label", "parameters": {"classification": 2}}]},
            "classification",
        ),
        ([tensor("text", "a")], {"parameters": {"timeout": 5}}, "Polytask-Deadline-Ms"),
        ([tensor("text", "a")], {"parameters": {"binary_data_output": 1}}, "must be true or false"),
        ([tensor("text", "a")], {"ouputs": []}, "unknown field"),
    ],
)
async def test_a_malformed_request_is_refused(inputs: list[Body], more: Body, words: str) -> None:
    """A malformed request is 400; errors about an input have the message of our own API."""
    async with serving() as service:
        assert words in message(await infer(service, "mood", *inputs, **more), 400)


async def test_refusals_have_the_statuses_of_our_own_api() -> None:
    """Unknown tasks and versions are 404, too much is 413, late is 504 and a bad deadline 400, and metrics count them as usual."""
    text = tensor("text", "cat")
    backend = GatedBackend()
    async with serving(backend, max_inputs=2, max_body_bytes=1000) as service:
        unknown = await infer(service, "moood", text)
        version = await infer(service, "mood/versions/2", text)
        served = await infer(service, "mood/versions/1", text)
        many = await infer(service, "mood", tensor("text", "a", "b", "c"))
        large = await infer(service, "mood", tensor("text", "a" * 2000))
        call = await hold(service, backend)
        body = {"inputs": [text]}
        late = await service.client.post("/v2/models/mood/infer", json=body, headers={"Polytask-Deadline-Ms": "20"})
        bad = await service.client.post("/v2/models/mood/infer", json=body, headers={"Polytask-Deadline-Ms": "x"})
        backend.open()
        await call
        expired = await service.metric('polytask_requests_total{outcome="expired",task="mood"}')
    assert "did you mean 'mood'" in message(unknown, 404)
    assert "version 1" in message(version, 404)
    assert served.status_code == 200
    assert "the limit is 2" in message(many, 413)
    assert "1000 bytes" in message(large, 413)
    assert "deadline" in message(late, 504)
    assert "Polytask-Deadline-Ms" in message(bad, 400)
    assert expired == 1


async def test_health_and_metadata() -> None:
    """Health, metadata and readiness exist with and without a version; an unknown path is an error of the protocol."""
    async with serving() as service:
        for path in (
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/mood/ready",
            "/v2/models/mood/versions/1/ready",
        ):
            assert (await service.client.get(path)).status_code == 200
        assert (await service.client.get("/v2")).json()["extensions"] == ["binary_tensor_data"]
        metadata = (await service.client.get("/v2/models/relevance")).json()
        assert metadata == (await service.client.get("/v2/models/relevance/versions/1")).json()
        for path in ("/v2/models/nothing", "/v2/models/mood/versions/2/ready", "/v2/other"):
            message(await service.client.get(path), 404)
    assert (metadata["name"], metadata["versions"]) == ("relevance", ["1"])
    assert metadata["inputs"] == [
        {"name": "query", "datatype": "BYTES", "shape": [-1]},
        {"name": "candidates", "datatype": "BYTES", "shape": [-1, -1]},
    ]


async def test_not_ready_is_503() -> None:
    """While the process is live but not ready, server and models answer 503."""
    async with serving(warm=False) as service:
        service.worker.stop(5)
        assert (await service.client.get("/v2/health/live")).json() == {"live": True}
        for path in ("/v2/health/ready", "/v2/models/mood/ready", "/v1/models/mood"):
            message(await service.client.get(path), 503)
            assert (await service.client.head(path)).status_code == 503


async def test_keys_are_required() -> None:
    """Health needs no key; a request that is refused for a missing key is counted for its task."""
    async with serving(api_keys=KEYS) as service:
        assert (await service.client.get("/v2/health/ready")).status_code == 200
        assert "key" in message(await infer(service, "mood", tensor("text", "cat")), 401)
        await service.client.post("/v1/models/mood:predict", json={"instances": ["cat"]})
        refused = await service.metric('polytask_rejections_total{reason="auth",task="mood"}')
    assert refused == 2


@pytest.mark.parametrize("task", TASKS)
async def test_instances_become_predictions(task: str) -> None:
    """KServe's v1 has the inputs and answers of our own API under other names."""
    async with serving() as service:
        inputs = (await service.client.get(f"/v1/tasks/{task}")).json()["example"]["inputs"]
        response = await service.client.post(f"/v1/models/{task}:predict", json={"instances": inputs})
        assert response.json() == {"predictions": [await own_answer(service, task)]}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[1]", b'{"instances": []}', b'{"instances": ["a"], "more": 1}', b"[" * 9999]
)
async def test_a_body_without_instances_is_refused(body: bytes) -> None:
    """A body that is no object with a list of instances is 400 with a message."""
    async with serving() as service:
        assert message(await service.client.post("/v1/models/mood:predict", content=body), 400)


async def test_kserves_readiness_is_that_of_the_service() -> None:
    """GET /v1/models/{task} says whether a task is answered: 200, or 404 for an unknown one; for HEAD the status is enough."""
    async with serving() as service:
        response = await service.client.get("/v1/models/mood")
        assert (response.status_code, response.json()) == (200, {"name": "mood", "ready": True})
        for path in ("/v1/models/mood", "/v2/models/mood/ready", "/v2/health/live"):
            assert (await service.client.head(path)).status_code == 200
        assert "error" in (await service.client.get("/v1/models/poetry")).json()
        assert (await service.client.get("/v1/models/poetry")).status_code == 404


async def test_the_content_type_of_texts_is_accepted() -> None:
    """The content type that MLServer's clients send with texts is accepted, and any other is refused by name."""
    async with serving() as service:
        texts = tensor("text", "cat")
        assert outputs(await infer(service, "mood", texts, parameters={"content_type": "str"}))["label"]
        refused = await infer(service, "mood", texts, parameters={"content_type": "np"})
        assert "parameters.content_type: must be 'str'" in message(refused, 400)


async def test_half_of_a_surrogate_pair_is_named() -> None:
    """A lone surrogate in JSON is refused with its place, in both protocols, and so are blank texts."""
    async with serving() as service:
        body = json.dumps({"inputs": [tensor("text", "ok", "cut \ud83d")]})
        refused = await service.client.post("/v2/models/mood/infer", content=body)
        assert "inputs[0].data[1]: has half of a surrogate pair" in message(refused, 400)
        refused = await infer(service, "mood", tensor("text", "ok", "\u200b"))
        assert "inputs[1].text: must not be blank" in message(refused, 400)
        url, body = "/v1/models/mood:predict", json.dumps({"instances": ["ok", "cut \ud83d"]})
        refused = await service.client.post(url, content=body)
        assert "[1]" in refused.text
        assert "half of a surrogate pair" in refused.text
