"""FastAPI and an engine, each text run alone: no padding, no batches, the engine's threads work on one text at a time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.rivals.classifiers import PORT, TASKS, load


class Texts(BaseModel):
    """The body of a request."""

    texts: list[str]


app = FastAPI()
classifiers = {task: load(task) for task in TASKS}
device = ThreadPoolExecutor(1)


@app.post("/{task}")
async def classify(task: str, body: Texts) -> list[dict[str, Any]]:
    """Classifies the texts one after the other. A text of another request may run in between."""
    loop = asyncio.get_running_loop()
    return [(await loop.run_in_executor(device, classifiers[task], [text]))[0] for text in body.texts]


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
