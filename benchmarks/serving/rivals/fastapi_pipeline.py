"""FastAPI around transformers pipelines, as most first versions are: each request goes straight into its pipeline."""

from __future__ import annotations

from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

from benchmarks.serving.rivals.classifiers import MODELS, PORT, TASKS, THREADS


class Texts(BaseModel):
    """The body of a request."""

    texts: list[str]


torch.set_num_threads(THREADS)
app = FastAPI()
classifiers = {task: pipeline("text-classification", model=str(MODELS / task), truncation=True) for task in TASKS}


@app.post("/{task}")
def classify(task: str, body: Texts) -> list[dict[str, Any]]:
    """Not a coroutine, so that FastAPI runs it on a thread."""
    found: list[dict[str, Any]] = classifiers[task](body.texts)
    return found


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
