"""Frozen features: states of the untrained backbone, the mean of those of a text or the one of a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from polytask.model.batch import collate
from polytask.model.encoding import Encoding, Input, InputEncoder
from polytask.model.heads import pool_mean
from polytask.model.network import Network
from polytask.model.tasks import Kind, Task
from polytask.training.backbone import Backbone
from polytask.training.evaluation.evaluate import batches_by_length
from polytask.training.evaluation.tfidf_features import PairedTexts

Matrix = NDArray[np.float32]


class FrozenBackbone:
    """The backbone as it was published, without anything that depends on a task."""

    def __init__(self, backbone: Backbone, encoder: InputEncoder, device: torch.device, *, bf16: bool = False) -> None:
        config = replace(backbone.config, max_length=backbone.config.max_positions)
        # A network also has heads and task vectors, drawn at random; nothing here reads them.
        with torch.random.fork_rng():
            self._network = Network(config, [_text_task(config.max_length)]).to(device).eval()
        self._network.load_state_dict(backbone.tensors, strict=False)
        self._encoder, self._device, self._bf16 = encoder, device, bf16

    def text_means(self, texts: Sequence[str], max_length: int) -> Matrix:
        """The mean of each text's states: [texts, D]."""
        rows = [row for (row,) in self._encoder.encode(_text_task(max_length), [Input(text) for text in texts])]
        means = np.zeros((len(rows), self._network.config.hidden_size), np.float32)
        for indices, states, is_token in self._states(rows):
            means[indices] = pool_mean(states, is_token).cpu().numpy()
        return means

    def word_states(self, task: Task, inputs: Sequence[Input]) -> Matrix:
        """The state of the first piece of each word, [words, D]; zeros for words behind the task's `max_length`."""
        # The backbone has no segments for the shapes of words.
        rows = [row for (row,) in self._encoder.encode(replace(task, word_shapes=False), inputs)]
        words = [{span: at for at, span in enumerate(item.words or ())} for item in inputs]
        found = [np.zeros((len(own), self._network.config.hidden_size), np.float32) for own in words]
        for indices, states, _ in self._states(rows):
            for index, row_states in zip(indices, states.cpu().numpy(), strict=True):
                at = [words[index][span] for span in rows[index].offsets]
                found[index][at] = row_states[list(rows[index].positions)]
        return np.concatenate(found)

    @torch.inference_mode()
    def _states(self, rows: Sequence[Encoding]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """The indices, states [B, L, D] and places [B, L] of the tokens of batches that together are all rows."""
        tables = self._network.condition()
        for indices in batches_by_length(rows):
            encodings = [rows[index] for index in indices]
            batch = collate(encodings, [0] * len(indices), token_level=False, pad_id=self._encoder.pad_id)
            batch = batch.to(self._device)
            is_token = torch.arange(batch.input_ids.shape[1], device=self._device) < batch.lengths[:, None]
            constants = tables.gather(batch.task_ids)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
                states = self._network.encoder(batch.input_ids, batch.segment_ids, is_token, constants)
            yield indices, states.float(), is_token


class FrozenFeatures:
    """Frozen states, scaled to the same spread: of a text; of a pair u, v, |u - v| and u * v; of a word for tagging."""

    def __init__(self, backbone: FrozenBackbone) -> None:
        self._backbone, self._scaler = backbone, StandardScaler(copy=False)

    def fit(self, task: Task, inputs: Sequence[Input]) -> Matrix:
        """Measures the spread of the training states and returns their rows."""
        return np.asarray(self._scaler.fit_transform(self._states(task, inputs)))

    def rows(self, task: Task, inputs: Sequence[Input]) -> Matrix:
        """A row for each input, candidate or word."""
        return np.asarray(self._scaler.transform(self._states(task, inputs)))

    def _states(self, task: Task, inputs: Sequence[Input]) -> Matrix:
        if task.kind is Kind.TAGGING:
            return self._backbone.word_states(task, inputs)
        texts = PairedTexts(inputs)
        means = self._backbone.text_means(texts.texts, task.max_length)
        first = means[texts.first]
        if not texts.second:
            return first
        second = means[texts.second]
        return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _text_task(max_length: int) -> Task:
    return Task("text", Kind.CLASSIFICATION, max_length, labels=("a", "b"))
