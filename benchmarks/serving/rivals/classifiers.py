"""One task's classifier as anybody would load it: transformers with torch, or ONNX Runtime in fp32 or int8."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Classify = Callable[[Sequence[str]], list[dict[str, Any]]]
"""Texts to labels and scores, in one batch padded to its longest."""

PORT = int(os.environ.get("RIVAL_PORT", "0"))
MODELS = Path(os.environ.get("RIVAL_MODELS", "."))
TASKS = os.environ.get("RIVAL_TASKS", "").split(",")
ENGINE = os.environ.get("RIVAL_ENGINE", "torch")
THREADS = int(os.environ.get("RIVAL_THREADS", "1"))


def load(task: str, threads: int = THREADS) -> Classify:
    """The classifier of a task on the engine that RIVAL_ENGINE names: torch, onnx or int8."""
    folder = MODELS / task
    return _torch(folder, threads) if ENGINE == "torch" else _onnx(folder, ENGINE, threads)


def _torch(folder: Path, threads: int) -> Classify:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def classify(texts: Sequence[str]) -> list[dict[str, Any]]:
        inputs = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            scores, labels = model(**inputs).logits.softmax(dim=1).max(dim=1)
        found = zip(labels.tolist(), scores.tolist(), strict=True)
        return [{"label": model.config.id2label[label], "score": score} for label, score in found]

    return classify


def _onnx(folder: Path, engine: str, threads: int) -> Classify:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    limit = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    path = folder / ("model_int8.onnx" if engine == "int8" else "model.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def classify(texts: Sequence[str]) -> list[dict[str, Any]]:
        rows = tokenizer.encode_batch(list(texts))
        fed = {
            "input_ids": np.array([row.ids for row in rows]),
            "attention_mask": np.array([row.attention_mask for row in rows]),
            "token_type_ids": np.array([row.type_ids for row in rows]),
        }
        logits = session.run(None, fed)[0]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        labels = scores.argmax(axis=1)
        return [
            {"label": config["id2label"][str(label)], "score": float(own[label])}
            for own, label in zip(scores, labels, strict=True)
        ]

    return classify
