"""FastAPI and an engine with batching written by hand: a queue per task, and all waiting texts run together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.rivals.classifiers import PORT, TASKS, load

_MAX_BATCH = 32
_Waiting = tuple[str, asyncio.Future[dict[str, Any]]]


class Texts(BaseModel):
    """The body of a request."""

    texts: list[str]


queues: dict[str, asyncio.Queue[_Waiting]] = {}
device = ThreadPoolExecutor(1)


async def batches(task: str) -> None:
    """Runs batches of a task for ever: the first waiting text and those already queued behind it."""
    classify, queue = load(task), queues[task]
    while True:
        batch = [await queue.get()]
        while len(batch) < _MAX_BATCH and not queue.empty():
            batch.append(queue.get_nowait())
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(device, classify, [text for text, _ in batch])
        except Exception as error:  # noqa: BLE001, it is the answer of these texts and the loop goes on
            for _, future in batch:
                future.set_exception(error)
            continue
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Starts a loop for each task."""
    queues.update({task: asyncio.Queue() for task in TASKS})
    async with asyncio.TaskGroup() as group:
        loops = [group.create_task(batches(task)) for task in TASKS]
        yield
        for loop in loops:
            loop.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/{task}")
async def classify(task: str, body: Texts) -> list[dict[str, Any]]:
    """Queues the texts and waits for their answers."""
    futures = []
    for text in body.texts:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        queues[task].put_nowait((text, future))
        futures.append(future)
    return list(await asyncio.gather(*futures))


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
