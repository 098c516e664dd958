"""The encoder, against transformers and against the equations written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

from polytask.model.batch import Batch
from polytask.model.conditioning import ConditionalBottleneck, attention_masks
from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, Pooling
from polytask.model.encoder import EncoderLayer, JoinedTables, LayerTables, Tables
from polytask.model.tasks import Task
from tests.model.support import literal
from tests.model.support.networks import (
    MINILM,
    build,
    encode,
    largest_difference,
    load_backbone,
    minilm,
    one_row,
    random_batch,
    randomise_conditioning,
    run,
)

LENGTHS = (7, 40, 1, 23, 40)
CONDITIONS: dict[str, dict[str, Any]] = {
    "alignment": {"conditional_alignment": True},
    "attention": {"conditional_attention": (0, 1)},
    "layer norm": {"conditional_layer_norm": (0, 1)},
    "bottleneck": {"conditional_bottleneck": (0, 1)},
    "low rank": {"conditional_layer_norm": (0, 1), "film_rank": 4},
    "short task vectors": {"conditional_layer_norm": (0, 1), "task_size": 6},
    "alignment matrix": {"conditional_alignment": True, "alignment_form": AlignmentForm.MATRIX},
}
OFF: dict[str, Any] = {
    "conditional_alignment": False,
    "conditional_attention": (),
    "conditional_layer_norm": (),
    "conditional_bottleneck": (),
}
RELEASED: dict[str, Any] = {
    "pooling": Pooling.CLS,
    "layer_norm_form": LayerNormForm.SCALE,
    "conditional_layer_norm": (1,),
}
PAPER: dict[str, Any] = RELEASED | {
    "alignment_form": AlignmentForm.MATRIX,
    "layer_norm_form": LayerNormForm.BIAS_IN_SCALE,
    "conditional_attention": (1,),
}
BASE: dict[str, Any] = {"bottleneck_form": BottleneckForm.ADAPTER, "conditional_bottleneck": (1,)}
LARGE: dict[str, Any] = {"bottleneck_form": BottleneckForm.LADDER}
FORMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, cheap": {"film_rank": 4, "task_size": 12, "conditional_pooling": True},
    "released base": RELEASED | BASE,
    "released large": RELEASED | LARGE,
    "paper base": PAPER | BASE,
    "paper large": PAPER | LARGE,
}
SIZES = [
    {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
    {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16},
    {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 12, "layer_norm_eps": 1e-5},
    {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 8, "type_vocab_size": 3},
]


def _reference(sizes: dict[str, Any], config: NetworkConfig) -> BertModel:
    """A transformers BERT with weights far enough from zero that attention is not just a mean."""
    published = BertConfig(
        vocab_size=config.vocab_size, max_position_embeddings=64, attn_implementation="eager", **sizes
    )
    torch.manual_seed(1)
    reference = BertModel(published).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.15)
    return reference


def _like(published: BertConfig) -> dict[str, Any]:
    return {
        "hidden_size": published.hidden_size,
        "num_layers": published.num_hidden_layers,
        "num_heads": published.num_attention_heads,
        "intermediate_size": published.intermediate_size,
        "num_segments": published.type_vocab_size,
        "layer_norm_eps": published.layer_norm_eps,
    }


def _reference_states(reference: BertModel, batch: Batch) -> Any:
    is_token = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    with torch.no_grad():
        return reference(input_ids=batch.input_ids, token_type_ids=batch.segment_ids, attention_mask=is_token.long())


@pytest.mark.parametrize("sizes", SIZES)
def test_plain_encoder_equals_transformers(
    sizes: dict[str, Any], tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """With conditioning off the encoder equals BertModel on a padded batch of mixed lengths."""
    reference = _reference(sizes, tiny_config)
    config = replace(tiny_config, pooling=Pooling.CLS, **OFF, **_like(reference.config))
    network = build(config, tiny_tasks)
    load_backbone(network, reference.state_dict())
    batch = random_batch(config, LENGTHS, range(5))
    expected = _reference_states(reference, batch)
    assert largest_difference(encode(network, batch), expected.last_hidden_state, batch.lengths) < 1e-5
    with torch.no_grad():
        is_token = torch.ones_like(batch.input_ids, dtype=torch.bool)
        pooled = network._pool(expected.last_hidden_state, is_token, batch.segment_ids, None)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [(), range(6)], ids=["off", "on"])
def test_minilm_equals_transformers(layers: Sequence[int], tiny_tasks: tuple[Task, ...]) -> None:
    """On the published all-MiniLM-L6-v2 weights the encoder equals BertModel, conditioning off or newly on."""
    network = minilm(tiny_tasks, layers)
    reference = BertModel(BertConfig.from_json_file(MINILM / "config.json")).eval()
    reference.load_state_dict(load_file(MINILM / "model.safetensors"), strict=False)
    batch = random_batch(network.config, (128, 5, 64, 31), range(4))
    expected = _reference_states(reference, batch).last_hidden_state
    assert largest_difference(encode(network, batch), expected, batch.lengths) < 1e-5


@pytest.mark.parametrize("name", CONDITIONS)
def test_new_conditional_modules_are_the_identity(
    name: str, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """An untrained conditional module does not change the encoder's output."""
    plain = build(replace(tiny_config, **OFF), tiny_tasks)
    network = build(replace(tiny_config, **{**OFF, **CONDITIONS[name]}), tiny_tasks)
    network.encoder.load_state_dict(plain.encoder.state_dict(), strict=False)
    batch = random_batch(tiny_config, LENGTHS, range(5))
    assert largest_difference(encode(network, batch), encode(plain, batch), batch.lengths) < 1e-6


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_conditional_module_matters(name: str, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """Each conditional module alone, once trained, makes the encoder's output depend on the task."""
    network = build(replace(tiny_config, **{**OFF, **CONDITIONS[name]}), tiny_tasks)
    randomise_conditioning(network, std=0.3)
    batch = random_batch(tiny_config, (12,), (0,))
    other = replace(batch, task_ids=torch.tensor([1]))
    assert largest_difference(encode(network, batch), encode(network, other), batch.lengths) > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_network_equals_its_equations(form: str, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """In each published form and in ours, a padded batch gives the result of the equations for each text alone."""
    network = randomise_conditioning(build(replace(tiny_config, **FORMS[form]), tiny_tasks), std=0.15)
    batch = random_batch(tiny_config, LENGTHS, (0, 3, 3, 6, 1))
    states, outputs, heads = encode(network, batch), run(network, batch), network.heads.sentence
    for row, task_id in enumerate(batch.task_ids.tolist()):
        alone = one_row(batch, row)
        expected = literal.encode(network, alone.input_ids[0], alone.segment_ids[0], task_id)
        torch.testing.assert_close(states[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)
        logits = heads.weight @ literal.pool(network, expected, task_id) + heads.bias
        torch.testing.assert_close(outputs.sentence[row], logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_the_tasks_apart(form: str, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """In each form one text has other logits under each task, and in a mixed batch the same ones as alone."""
    network = randomise_conditioning(build(replace(tiny_config, **FORMS[form]), tiny_tasks), std=0.15)
    batch = random_batch(tiny_config, (20,) * 7, range(7))
    same_text = replace(batch, input_ids=batch.input_ids[:1].repeat(7, 1))
    outputs = run(network, same_text).sentence
    assert torch.pdist(outputs).min() > 1e-4
    for row in range(7):
        torch.testing.assert_close(run(network, one_row(same_text, row)).sentence[0], outputs[row], atol=1e-5, rtol=0)


def test_a_ladder_never_feeds_back(tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """If the last bottleneck's output is a constant, so is the encoder's: the layers only feed the ladder."""
    network = randomise_conditioning(build(replace(tiny_config, **LARGE), tiny_tasks), std=0.3)
    *_, last = [module for module in network.modules() if isinstance(module, ConditionalBottleneck)]
    with torch.no_grad():
        last.up.weight.zero_()
        last.up.bias.fill_(3)
    states = encode(network, random_batch(tiny_config, LENGTHS, range(5)))
    assert torch.equal(states, torch.full_like(states, 3))


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("length", [41, 50, 64])
def test_padding_changes_nothing(
    length: int, pooling: bool, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """More padding, with any token, changes no real token's state and no logit."""
    tiny_network = build(replace(tiny_config, conditional_pooling=pooling), tiny_tasks)
    randomise_conditioning(tiny_network, std=0.15)
    batch = random_batch(tiny_network.config, LENGTHS, range(5))
    longer = random_batch(tiny_network.config, (length,), (0,), seed=1)
    padded = replace(
        batch,
        input_ids=longer.input_ids.repeat(5, 1),
        segment_ids=longer.segment_ids.repeat(5, 1),
    )
    padded.input_ids[:, :40], padded.segment_ids[:, :40] = batch.input_ids, batch.segment_ids
    states, outputs = encode(tiny_network, batch), run(tiny_network, batch)
    padded_states, padded_outputs = encode(tiny_network, padded), run(tiny_network, padded)
    assert largest_difference(states, padded_states[:, :40], batch.lengths) < 1e-5
    torch.testing.assert_close(outputs.sentence, padded_outputs.sentence, atol=1e-5, rtol=0)


def _attention_bias_gradients(layer: EncoderLayer, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the FiLM's scale half, of its shift half and of R, for nonzero task vectors."""
    task_vectors, states, bias = torch.randn(2, size), torch.randn(2, 10, size), layer.attention_bias
    assert bias is not None
    films, padding = bias.table(task_vectors)[:, None], torch.zeros(2, 10)
    (mask,) = attention_masks(bias.blocks()[None], films, padding, bias.matrix.shape[1])
    outputs = layer(states, mask, layer.tables(task_vectors))
    (outputs * torch.randn(outputs.shape)).sum().backward()
    film = bias.film.projection.weight.grad
    matrix = bias.matrix.grad
    assert film is not None
    assert matrix is not None
    scale, shift = film.chunk(2)
    return scale, shift, matrix


def test_attention_bias_learns_its_scale_only_after_its_matrix(tiny_config: NetworkConfig) -> None:
    """At step 0 R is zero, so the scale's gradient is exactly 0 while the shift's and R's are not."""
    torch.manual_seed(0)
    layer = EncoderLayer(replace(tiny_config, conditional_bottleneck=()), 0).eval()
    scale, shift, matrix = _attention_bias_gradients(layer, tiny_config.hidden_size)
    assert not scale.any()
    assert shift.any()
    assert matrix[:10].any()


def test_attention_bias_scale_learns_once_its_matrix_moved(tiny_config: NetworkConfig) -> None:
    """With R away from zero, the scale has a gradient as well."""
    torch.manual_seed(0)
    layer = EncoderLayer(replace(tiny_config, conditional_bottleneck=()), 0).eval()
    assert layer.attention_bias is not None
    with torch.no_grad():
        layer.attention_bias.matrix.normal_()
    assert _attention_bias_gradients(layer, tiny_config.hidden_size)[0].any()


def test_conditioning_is_only_where_it_is_switched_on(tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """A layer has tables for its own modules only, and a network without any has no table."""
    changes = {**OFF, "conditional_attention": (1,), "conditional_bottleneck": (0,)}
    tables = build(replace(tiny_config, **changes), tiny_tasks).condition()
    assert tables.alignment is None
    assert tables.layers[0].bottleneck is not None
    assert tables.attention is not None
    assert tables.matrices is not None
    assert len(tables.matrices) == tables.attention.shape[1] == 1
    assert tables.layers == (LayerTables(None, tables.layers[0].bottleneck, None), LayerTables(None, None, None))
    assert tables.pooling is None


@pytest.mark.parametrize(("form", "count"), [("ours", 8), ("ours, cheap", 9), ("released base", 6)])
def test_tables_start_with_the_task(
    form: str, count: int, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """The first axis of every table is the task; gathering rows puts the batch there instead."""
    tiny_network = build(replace(tiny_config, **FORMS[form]), tiny_tasks)
    shapes: list[int] = []

    def note(table: Tensor) -> Tensor:
        shapes.append(table.shape[0])
        return table

    tables = tiny_network.condition()
    tables.map(note)
    assert shapes == [7] * count
    shapes.clear()
    tables.gather(torch.tensor([0, 5, 5])).map(note)
    assert shapes == [3] * count


def test_mapping_reaches_every_table_once() -> None:
    """`map` keeps the structure, skips modules that are off, and puts each result in its place."""
    one, two, three = (torch.full((2, 2, 1), float(value)) for value in (1, 2, 3))
    tables = Tables(None, one, (LayerTables(None, two, None), LayerTables(three, None, None)))
    mapped = tables.map(lambda table: table * 10)
    assert mapped.alignment is None
    first, second = mapped.layers
    found = (mapped.attention, first.bottleneck, second.attention_norm)
    assert [None if table is None else float(table.flatten()[0]) for table in found] == [10, 20, 30]
    assert first.attention_norm is first.output_norm is second.bottleneck is second.output_norm is None


@pytest.mark.parametrize("rates", [{"dropout": 0.5}, {"attention_dropout": 0.5}])
def test_dropout_acts_in_training_only(
    rates: dict[str, Any], tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """Either dropout makes the encoder random in training mode; in eval mode it is exact."""
    config = replace(tiny_config, **{"dropout": 0.0, "attention_dropout": 0.0, **rates})
    network, batch = build(config, tiny_tasks), random_batch(config, LENGTHS, range(5))
    assert torch.equal(encode(network, batch), encode(network, batch))
    network.train()
    assert not torch.equal(encode(network, batch), encode(network, batch))


def test_training_without_dropout_is_the_forward_of_serving(
    tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]
) -> None:
    """With both dropouts at 0, training mode gives the same states as eval mode."""
    config = replace(tiny_config, dropout=0.0, attention_dropout=0.0)
    network, batch = build(config, tiny_tasks), random_batch(config, LENGTHS, range(5))
    states = encode(network, batch)
    assert largest_difference(encode(network.train(), batch), states, batch.lengths) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_joined_tables_have_the_same_rows(form: str, tiny_config: NetworkConfig, tiny_tasks: tuple[Task, ...]) -> None:
    """Joined tables give the same outputs to the bit, in each form and without conditional modules."""
    for switches in (FORMS[form], FORMS[form] | OFF):
        network = randomise_conditioning(build(replace(tiny_config, **switches), tiny_tasks), std=0.15)
        batch = random_batch(tiny_config, LENGTHS, (0, 3, 3, 6, 1))
        with torch.no_grad():
            tables = network.condition()
            expected, found = network(batch, tables), network(batch, JoinedTables(tables))
        assert torch.equal(found.sentence, expected.sentence)
        assert torch.equal(found.token, expected.token)
