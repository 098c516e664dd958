"""The real HTTP client of Triton, as it is, gets the answers of our own API from a service of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

from tests.service.support import checkpoints
from tests.service.support.processes import polytask_serve
from tests.support import tiny

FIELDS = {
    "mood": ("text",),
    "topics": ("text",),
    "closeness": ("text", "text_pair"),
    "relevance": ("query", "candidates"),
    "choice": ("text", "choices"),
    "entities": ("text",),
    "answer": ("question", "context"),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The tiny checkpoint, served."""
    store = tmp_path_factory.mktemp("store")
    checkpoints.saved(store)
    with polytask_serve("--store", str(store), "--model", "tiny") as url:
        yield url


@pytest.fixture
def triton(url: str) -> Iterator[InferenceServerClient]:
    """A client of it."""
    with InferenceServerClient(url.removeprefix("http://")) as client:
        yield client


def inputs(task: str, *, binary: bool = True) -> list[InferInput]:
    """The example of a task as the client wants it."""
    item, found = tiny.inputs()[task], []
    for name, texts in zip(FIELDS[task], ((item.text,), item.candidates or (item.text_pair,)), strict=False):
        found.append(InferInput(name, [len(texts)], "BYTES"))
        found[-1].set_data_from_numpy(np.array(texts, dtype=object), binary_data=binary)
    return found


def values(result: InferResult, name: str) -> list[Any]:
    """An output, texts decoded."""
    return [value.decode() if isinstance(value, bytes) else value for value in result.as_numpy(name).ravel().tolist()]


@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
@pytest.mark.parametrize("task", FIELDS)
def test_every_kind_of_task_answers(url: str, triton: InferenceServerClient, task: str, binary: bool) -> None:
    """With what the client does by default, which is bytes in both directions, and in JSON."""
    metadata = triton.get_model_metadata(task)
    assert [tensor["name"] for tensor in metadata["inputs"] if not tensor.get("parameters")] in ([], [*FIELDS[task]])
    names = [tensor["name"] for tensor in metadata["outputs"]]
    wanted = [InferRequestedOutput(name, binary_data=False) for name in names]
    result = triton.infer(task, inputs(task, binary=binary), outputs=None if binary else wanted, request_id="mine")
    example = httpx.get(f"{url}/v1/tasks/{task}").json()["example"]
    (answer,) = httpx.post(f"{url}/v1/tasks/{task}/predict", json=example).json()["answers"]
    assert result.get_response()["id"] == "mine"
    assert [output["name"] for output in result.get_response()["outputs"]] == names
    for name in answer.keys() & set(names) - {"scores", "labels", "entities", "ranking"}:
        assert values(result, name) == [pytest.approx(answer[name], abs=1e-6)]
    for name in {"labels", "entities"} & set(names):
        assert json.loads(values(result, name)[0]) == answer[name]
    if task == "relevance":
        assert values(result, "ranking") == [ranked["index"] for ranked in answer["ranking"]]
    if isinstance(answer.get("scores"), list):
        assert values(result, "scores") == pytest.approx(answer["scores"], abs=1e-6)


def test_a_part_of_the_outputs_by_version_and_with_parameters(triton: InferenceServerClient) -> None:
    """Some outputs as bytes and some as JSON in one response; parameters are options."""
    wanted = [InferRequestedOutput("scores", binary_data=True), InferRequestedOutput("label", binary_data=False)]
    result = triton.infer("mood", inputs("mood"), "1", wanted, parameters={"raw_scores": True})
    assert result.as_numpy("scores").shape == (1, 3)
    assert result.as_numpy("scores").sum() != pytest.approx(1, abs=0.01)
    assert result.as_numpy("score") is None


def test_the_client_sees_health_and_errors(triton: InferenceServerClient) -> None:
    """Ready and live; what is refused raises with the message and the status of the service."""
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("mood")
    assert triton.is_model_ready("mood", "1")
    assert not triton.is_model_ready("mood", "2")
    assert triton.get_server_metadata()["name"] == "polytask"
    with pytest.raises(InferenceServerException, match=r"did you mean 'mood'") as unknown:
        triton.infer("moood", inputs("mood"))
    assert unknown.value.status() == "404"
    with pytest.raises(InferenceServerException, match=r"inputs\[0\].text_pair: is required") as invalid:
        triton.infer("closeness", inputs("mood"))
    assert invalid.value.status() == "400"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["bytes", "json"])
def test_compression_in_both_directions(triton: InferenceServerClient, algorithm: str, binary: bool) -> None:
    """What is compressed on its way has the answer of what is not."""
    expected = values(triton.infer("mood", inputs("mood")), "label")
    sent, chosen = inputs("mood", binary=binary), algorithm
    found = triton.infer("mood", sent, request_compression_algorithm=chosen, response_compression_algorithm=chosen)
    assert values(found, "label") == expected
