"""The network: promises about many tasks, batches and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from polytask.model.batch import Batch
from polytask.model.conditioning import ConditionalAttentionBias, FiLM, TaskEmbedding
from polytask.model.config import AlignmentForm, BottleneckForm, LayerNormForm, NetworkConfig, Pooling
from polytask.model.encoder import EncoderLayer
from polytask.model.network import Network, init_random
from polytask.model.tasks import Kind, Task
from tests.model.support import literal
from tests.model.support.networks import build, classifiers, encode, one_row, random_batch, randomise_conditioning, run

LENGTHS = (7, 40, 1, 23, 40, 12, 5)


def _trained(config: NetworkConfig, num_tasks: int, seed: int = 0) -> Network:
    return randomise_conditioning(build(config, classifiers(num_tasks), seed), std=0.3, seed=seed)


def test_tasks_are_told_apart(tiny_network: Network) -> None:
    """The same text gets different states and different logits under each task."""
    batch = random_batch(tiny_network.config, [20] * 7, range(7))
    same_text = replace(batch, input_ids=batch.input_ids[:1].repeat(7, 1))
    states, outputs = encode(tiny_network, same_text), run(tiny_network, same_text)
    assert torch.pdist(states.flatten(1)).min() > 1e-2
    assert torch.pdist(outputs.sentence).min() > 1e-3
    assert outputs.token is not None
    assert torch.pdist(outputs.token.flatten(1)).min() > 1e-3


def test_equal_task_vectors_mean_equal_states(tiny_network: Network) -> None:
    """A task acts on the encoder through its vector alone: equal vectors give equal states."""
    with torch.no_grad():
        tiny_network.task_embedding.weight[5] = tiny_network.task_embedding.weight[2]
    batch = random_batch(tiny_network.config, (20, 20), (2, 5))
    same_text = replace(batch, input_ids=batch.input_ids[:1].repeat(2, 1))
    two, five = encode(tiny_network, same_text)
    torch.testing.assert_close(two, five, atol=1e-5, rtol=0)


def test_mixed_batches_equal_separate_ones(tiny_network: Network) -> None:
    """A batch of all tasks gives each row the logits that it gets in a batch of its own task."""
    batch = random_batch(tiny_network.config, LENGTHS + LENGTHS, [*range(7), *reversed(range(7))])
    mixed = run(tiny_network, batch)
    for task_id in range(7):
        rows = torch.nonzero(batch.task_ids == task_id).flatten()
        own_batch = Batch(
            batch.input_ids[rows], batch.segment_ids[rows], batch.lengths[rows], batch.task_ids[rows], True
        )
        separate = run(tiny_network, own_batch)
        torch.testing.assert_close(mixed.sentence[rows], separate.sentence, atol=1e-5, rtol=0)
        assert mixed.token is not None
        for row, length in zip(rows.tolist(), own_batch.lengths.tolist(), strict=True):
            alone = run(tiny_network, one_row(batch, row)).token
            assert alone is not None
            torch.testing.assert_close(mixed.token[row, :length], alone[0], atol=1e-5, rtol=0)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Counts the tensor operations that run inside it, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def _operations(network: Network, batch: Batch) -> tuple[Counter[str], Counter[str]]:
    with torch.no_grad():
        with _Operations() as conditioning:
            tables = network.condition()
        with _Operations() as forward:
            network(batch, tables)
    return conditioning.counts, forward.counts


def test_the_number_of_operations_does_not_grow_with_the_tasks(tiny_config: NetworkConfig) -> None:
    """Conditioning and forward run the same operations for 1, 7 and 100 tasks, in the network and in the batch."""
    network = _trained(tiny_config, 100)
    batches = [random_batch(tiny_config, [5] * 100, [row % tasks for row in range(100)]) for tasks in (1, 7, 100)]
    counts = [_operations(network, batch) for batch in batches]
    counts += [_operations(_trained(tiny_config, tasks), batches[0]) for tasks in (1, 7)]
    assert counts[0][1].total() > 50
    assert all(other == counts[0] for other in counts)


def test_the_forward_reads_nothing_back_from_the_device(tiny_config: NetworkConfig) -> None:
    """Conditioning and forward run on tensors without values, so no step waits for a value or depends on one."""
    with torch.device("meta"):
        network = build(tiny_config, classifiers(7))
    batch = random_batch(tiny_config, LENGTHS, range(7)).to(torch.device("meta"))
    outputs = run(network, batch)
    assert outputs.token is not None
    assert outputs.sentence.shape == (7, 10)
    assert outputs.token.shape == (7, 40, 4)


def _hypernetwork(network: Network) -> Iterator[nn.Module]:
    for module in network.modules():
        if isinstance(module, (FiLM, TaskEmbedding)):
            yield from module.modules()


def test_forward_calls_no_hypernetwork(tiny_network: Network) -> None:
    """Conditioning calls every module of the hypernetwork once, the forward calls none."""
    calls: Counter[nn.Module] = Counter()
    modules = list(_hypernetwork(tiny_network))
    for module in modules:
        module.register_forward_hook(lambda called, *_: calls.update([called]))
    tables = tiny_network.condition()
    assert calls == Counter(modules)
    calls.clear()
    tiny_network(random_batch(tiny_network.config, LENGTHS, range(7)), tables)
    assert not calls


def test_tables_may_be_computed_once(tiny_network: Network) -> None:
    """Tables computed once give the same logits, to the bit, as tables computed for each batch."""
    with torch.no_grad():
        once = tiny_network.condition()
        for seed in range(3):
            batch = random_batch(tiny_network.config, LENGTHS, range(7), seed=seed)
            folded, unfolded = tiny_network(batch, once), run(tiny_network, batch)
            assert torch.equal(folded.sentence, unfolded.sentence)
            assert unfolded.token is not None
            assert torch.equal(folded.token, unfolded.token)


def _film(film: FiLM, task: Tensor) -> Tensor:
    """The part of a FiLM's table for a task."""
    scale, shift = literal.film(film, task)
    return torch.stack([1 + scale, shift])


def test_tables_equal_the_equations_of_each_task(tiny_network: Network) -> None:
    """Every table has, for each task, the result of its equation for that task's vector alone."""
    tables, encoder = tiny_network.condition(), tiny_network.encoder
    for task_id, raw in enumerate(tiny_network.task_embedding.weight):
        task = literal.linear(tiny_network.task_embedding.transform, raw)
        assert encoder.alignment is not None
        pairs = [(tables.alignment, _film(encoder.alignment, raw))]
        assert tables.attention is not None
        for layer, constants, attention in zip(encoder.layers, tables.layers, tables.attention.unbind(1), strict=True):
            assert isinstance(layer, EncoderLayer)
            assert layer.attention_bias is not None
            assert layer.bottleneck is not None
            for norm, table in (
                (layer.attention_norm, constants.attention_norm),
                (layer.output_norm, constants.output_norm),
            ):
                assert norm.film is not None
                scale, shift = literal.film(norm.film, task)
                pairs.append((table, torch.stack([(1 + scale) * norm.weight, norm.bias + shift])))
            pairs.append((constants.bottleneck, _film(layer.bottleneck.film, task)))
            pairs.append((attention, _film(layer.attention_bias.film, task).repeat(1, 4)))
        for table, expected in pairs:
            assert table is not None
            torch.testing.assert_close(table[task_id], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"film_rank": 4, "task_size": 12, "conditional_pooling": True},
        {"alignment_form": AlignmentForm.MATRIX, "layer_norm_form": LayerNormForm.SCALE},
        {"bottleneck_form": BottleneckForm.LADDER},
        {"bottleneck_form": BottleneckForm.ADAPTER, "layer_norm_form": LayerNormForm.BIAS_IN_SCALE},
    ],
)
def test_training_reaches_every_parameter(switches: dict[str, Any], tiny_config: NetworkConfig) -> None:
    """Through the tables, a batch of all tasks gives every parameter of the network a gradient, in each form."""
    tiny_network = _trained(replace(tiny_config, **switches), 7)
    batch = random_batch(tiny_network.config, (64,) * 7, range(7))
    outputs = tiny_network(batch, tiny_network.condition())
    assert outputs.token is not None
    (outputs.sentence.square().sum() + outputs.token.square().sum()).backward()
    for name, parameter in tiny_network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_logits_are_the_heads_of_the_encoders_states(tiny_network: Network) -> None:
    """Sentence logits come from the mean of the real tokens' states, token logits from each token's state."""
    batch = random_batch(tiny_network.config, LENGTHS, range(7))
    states, outputs = encode(tiny_network, batch), run(tiny_network, batch)
    heads = tiny_network.heads
    for row, length in enumerate(LENGTHS):
        pooled = states[row, :length].mean(0)
        expected = heads.sentence.weight @ pooled + heads.sentence.bias
        torch.testing.assert_close(outputs.sentence[row], expected, atol=1e-5, rtol=1e-5)
    assert outputs.token is not None
    torch.testing.assert_close(outputs.token, states @ heads.token.weight.T + heads.token.bias, atol=1e-5, rtol=1e-5)


def test_cls_pooling_reads_the_first_token(tiny_config: NetworkConfig) -> None:
    """With CLS pooling a row's state is tanh(W h + b) of its first token."""
    network = _trained(replace(tiny_config, pooling=Pooling.CLS), 4)
    batch = random_batch(tiny_config, LENGTHS, [0] * 7)
    assert network.pooler is not None
    pooled = torch.tanh(literal.linear(network.pooler, encode(network, batch)[:, 0]))
    expected = pooled @ network.heads.sentence.weight.T + network.heads.sentence.bias
    torch.testing.assert_close(run(network, batch).sentence, expected, atol=1e-5, rtol=1e-5)


def test_token_logits_are_made_on_demand(tiny_network: Network) -> None:
    """A batch without token-level rows gets no token logits and the same sentence logits."""
    batch = random_batch(tiny_network.config, LENGTHS, range(7))
    outputs = run(tiny_network, replace(batch, token_level=False))
    assert outputs.token is None
    assert torch.equal(outputs.sentence, run(tiny_network, batch).sentence)


def _copy(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_the_state_dict_is_the_network(tiny_network: Network, tiny_config: NetworkConfig) -> None:
    """A network built anew and loaded strictly from the state dict gives the same logits, to the bit."""
    other = build(tiny_config, tiny_network.tasks, seed=9)
    batch = random_batch(tiny_config, LENGTHS, range(7))
    outputs = run(tiny_network, batch)
    assert not torch.equal(run(other, batch).sentence, outputs.sentence)
    other.load_state_dict(_copy(tiny_network), strict=True)
    loaded = run(other, batch)
    assert torch.equal(loaded.sentence, outputs.sentence)
    assert loaded.token is not None
    assert outputs.token is not None
    assert torch.equal(loaded.token, outputs.token)


def test_a_network_drawn_at_random_starts_as_the_released_code(tiny_config: NetworkConfig) -> None:
    """`init_random` gives matrices and vectors a standard deviation of 0.02, biases and R 0, layer norms 1 and 0."""
    network = build(replace(tiny_config, bottleneck_form=BottleneckForm.ADAPTER), classifiers(7))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        init_random(network.modules())
    for name, parameter in network.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif name.endswith(("bias", "attention_bias.matrix")):
            assert not parameter.any(), name
        else:
            assert 0.015 < parameter.std().item() < 0.025, name
            assert abs(parameter.mean().item()) < 0.01, name


def test_at_a_random_start_the_attentions_scale_waits_for_its_matrix(tiny_config: NetworkConfig) -> None:
    """After `init_random` R is zero, so the attention bias is the shift and the scale's gradient is exactly 0."""
    network = build(tiny_config, classifiers(7))
    init_random(network.modules())
    outputs = network(random_batch(tiny_config, (64,) * 7, range(7)), network.condition())
    outputs.sentence.square().sum().backward()
    for module in network.modules():
        if isinstance(module, ConditionalAttentionBias):
            assert module.film.projection.weight.grad is not None
            scale, shift = module.film.projection.weight.grad.chunk(2)
            assert not scale.any()
            assert shift.any()


@pytest.mark.parametrize("problem", ["missing", "unknown"])
def test_missing_and_unknown_tensors_are_errors(problem: str, tiny_network: Network) -> None:
    """A state dict that lacks a tensor or has one too many does not load."""
    tensors = _copy(tiny_network)
    if problem == "missing":
        del tensors["encoder.layers.1.bottleneck.up.weight"]
    else:
        tensors["encoder.layers.2.query.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match="Missing key" if problem == "missing" else "Unexpected key"):
        tiny_network.load_state_dict(tensors, strict=True)


_LAYER_NAMES = {
    f"{part}.{tensor}"
    for part in (
        "query",
        "key",
        "value",
        "attention_output",
        "attention_norm",
        "expand",
        "contract",
        "output_norm",
        "attention_norm.film.projection",
        "output_norm.film.projection",
        "attention_bias.film.projection",
        "bottleneck.film.projection",
        "bottleneck.down",
        "bottleneck.up",
    )
    for tensor in ("weight", "bias")
} | {"attention_bias.matrix"}


def test_parameter_names_are_a_contract(tiny_config: NetworkConfig, tiny_tasks: Sequence[Task]) -> None:
    """A stored checkpoint has exactly these tensors: a change here needs a new format number in the manifest."""
    network = build(replace(tiny_config, pooling=Pooling.CLS), tiny_tasks)
    expected = {
        "task_embedding.weight",
        "task_embedding.transform.weight",
        "task_embedding.transform.bias",
        "encoder.embeddings.word.weight",
        "encoder.embeddings.position.weight",
        "encoder.embeddings.segment.weight",
        "encoder.embeddings.norm.weight",
        "encoder.embeddings.norm.bias",
        "encoder.alignment.projection.weight",
        "encoder.alignment.projection.bias",
        "pooler.weight",
        "pooler.bias",
        "heads.sentence.weight",
        "heads.sentence.bias",
        "heads.token.weight",
        "heads.token.bias",
    } | {f"encoder.layers.{layer}.{name}" for layer in (0, 1) for name in _LAYER_NAMES}
    assert set(network.state_dict()) == expected


def test_parameter_names_of_the_switches_are_a_contract(tiny_config: NetworkConfig, tiny_tasks: Sequence[Task]) -> None:
    """Each switch adds these tensors to those of a plain checkpoint, and removes none."""
    plain = set(build(tiny_config, tiny_tasks).state_dict())
    tensors = ("weight", "bias")
    films = [name.removesuffix("projection.weight") for name in plain if name.endswith("projection.weight")]
    pooling = {f"conditional_pooling.query.projection.{tensor}" for tensor in tensors}
    transforms = {f"encoder.layers.{layer}.bottleneck.transform.{tensor}" for layer in (0, 1) for tensor in tensors}
    norms = {
        f"encoder.layers.{layer}.bottleneck.norm.{name}{tensor}"
        for layer in (0, 1)
        for name in ("", "film.projection.")
        for tensor in tensors
    }
    for switch, added in (
        ({"film_rank": 3}, {f"{film}reduce.weight" for film in films}),
        ({"task_size": 3}, set()),
        ({"conditional_pooling": True}, pooling),
        ({"alignment_form": AlignmentForm.MATRIX}, {"encoder.alignment_matrix.matrix"}),
        ({"bottleneck_form": BottleneckForm.LADDER}, transforms),
        ({"bottleneck_form": BottleneckForm.ADAPTER}, transforms | norms),
    ):
        changes: dict[str, Any] = dict(switch)
        assert set(build(replace(tiny_config, **changes), tiny_tasks).state_dict()) == plain | added


def _with_task(network: Network, task: Task) -> Network:
    """The network with one more task: its parameters copied, the new task's entries after the old ones."""
    grown = build(network.config, [*network.tasks, task], seed=7)
    tensors = grown.state_dict()
    for name, tensor in network.state_dict().items():
        if tensors[name].shape == tensor.shape:
            tensors[name] = tensor
        else:
            tensors[name][: len(tensor)] = tensor
    grown.load_state_dict(tensors)
    return grown


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.TAGGING])
def test_a_new_task_leaves_the_old_ones_alone(kind: Kind, tiny_network: Network) -> None:
    """A task added at the end changes no old parameter, and no old table or logit beyond the last bits of a product."""
    grown = _with_task(tiny_network, Task("new", kind, 32, labels=("a", "b", "c")))
    batch = random_batch(tiny_network.config, LENGTHS, range(7))
    before, after = run(tiny_network, batch), run(grown, batch)
    assert grown.output_slices[:7] == tiny_network.output_slices
    assert before.token is not None
    assert after.token is not None
    assert after.sentence.shape[1] + after.token.shape[2] == before.sentence.shape[1] + before.token.shape[2] + 3
    torch.testing.assert_close(after.sentence[:, : before.sentence.shape[1]], before.sentence, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.token[:, :, : before.token.shape[2]], before.token, atol=1e-5, rtol=0)


def test_a_new_task_changes_no_bit_of_the_encoder_under_old_tables(tiny_network: Network) -> None:
    """Under the tables of the smaller network, the larger one's encoder gives the same states to the bit."""
    grown = _with_task(tiny_network, Task("new", Kind.CLASSIFICATION, 32, labels=("a", "b")))
    batch = random_batch(tiny_network.config, LENGTHS, range(7))
    is_token = torch.arange(40) < batch.lengths[:, None]
    with torch.no_grad():
        constants = tiny_network.condition().gather(batch.task_ids)
        states = [
            network.encoder(batch.input_ids, batch.segment_ids, is_token, constants)
            for network in (tiny_network, grown)
        ]
    assert torch.equal(states[0], states[1])
