"""Creates the classifiers that the rivals serve: one model per task, with a random head in place of a fine-tuned one.

    python -m benchmarks.serving.rivals.models BACKBONE FOLDER '[{"name": ..., "num_labels": ..., "max_length": ...}]'

Each task's folder is a Hugging Face model with `model.onnx` and `model_int8.onnx` beside it, and `expected.json`: texts
and the label that the model gives them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

_TEXTS = ("I still have not received my new card.", "What a lovely morning!", "A man plays a guitar. [SEP] Music.")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def main() -> None:
    """Makes the models of all tasks."""
    backbone, folder, tasks = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    for number, task in enumerate(tasks):
        _make(backbone, folder / task["name"], number, task["num_labels"], task["max_length"])
        print(f"made {folder / task['name']}", flush=True)


def _make(backbone: Path, folder: Path, seed: int, num_labels: int, max_length: int) -> None:
    torch.manual_seed(seed)
    # Names of our own: those of two labels that have the default ones are left out of the files.
    names = {number: f"label {number}" for number in range(num_labels)}
    ids = {name: number for number, name in names.items()}
    model = AutoModelForSequenceClassification.from_pretrained(backbone, id2label=names, label2id=ids).eval()
    # Scores that are apart, so that a wrong answer shows.
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(backbone / "tokenizer.json"),
        model_max_length=max_length,
        model_input_names=list(_INPUTS),
        **special,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _for_older_readers(folder / "tokenizer_config.json")
    inputs = tokenizer(list(_TEXTS), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        labels = model(**inputs).logits.argmax(dim=1)
    _to_onnx(model, inputs, folder / "model.onnx")
    quantize_dynamic(folder / "model.onnx", folder / "model_int8.onnx", per_channel=True, weight_type=QuantType.QInt8)
    expected = [[text, model.config.id2label[int(label)]] for text, label in zip(_TEXTS, labels, strict=True)]
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")


def _for_older_readers(path: Path) -> None:
    """The transformers of infinity do not know the name that newer ones give the class."""
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")


def _to_onnx(model: Any, inputs: Any, path: Path) -> None:
    axes = {0: "rows", 1: "length"}
    torch.onnx.export(
        model,
        tuple(inputs[name] for name in _INPUTS),
        str(path),
        input_names=list(_INPUTS),
        output_names=["logits"],
        dynamic_axes={**dict.fromkeys(_INPUTS, axes), "logits": {0: "rows"}},
        dynamo=False,
    )


if __name__ == "__main__":
    main()
