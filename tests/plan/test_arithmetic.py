"""Operations, bytes and distinct counts, beside figures that are known otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.sweep import LLAMA_8B, llama_tensors
from pdray.plan import flops
from pdray.plan.distinct import estimate_distinct, expected_met
from pdray.plan.flops import Lengths
from pdray.plan.hardware import GIB
from pdray.plan.memory import TrainingSetup, activation_bytes, checkpoint_bytes, engine_bytes, training_bytes
from pdray.plan.shape import shape_of
from tests.plan.cases import llama_1b, llama_8b


def test_the_sizes_of_known_models() -> None:
    policy, proxy = llama_8b(), llama_1b()
    assert policy.parameters(True) == 8_030_261_248  # as Transformers counts them
    assert policy.parameters(False) == 8_030_261_248 - 128256 * 4096
    assert proxy.parameters(True) == proxy.parameters(False) == 1_235_814_400
    assert (policy.kv, policy.layers, policy.head, policy.causal) == (1024, 32, 128256 * 4096, True)
    bert = shape_of({"model_type": "bert", "architectures": ["BertModel"]}, {"encoder.dense.weight": (8, 8)})
    assert not bert.causal and bert.hidden == 8 and bert.intermediate == 32


def test_experts_that_a_token_does_not_pass_through_cost_nothing() -> None:
    shapes = {f"model.layers.0.mlp.experts.{n}.weight": (10, 10) for n in range(8)} | {"model.norm.weight": (10,)}
    config = {"model_type": "mixtral", "hidden_size": 10, "num_local_experts": 8, "num_experts_per_tok": 2}
    found = shape_of(config, shapes)
    assert (found.body, found.active) == (810, 210)


def test_operations_forward() -> None:
    shape, lengths = llama_8b(), Lengths(np.array([1000, 3000]))
    weights = 2 * (shape.body + shape.head) * 2000
    attention = 4 * 32 * 4096 * 5_000_000 / 2
    assert flops.forward(shape, 10, lengths, True) == pytest.approx(10 * (weights + attention))
    assert flops.forward_padded(shape, 1, 2000, True) == pytest.approx(weights + 4 * 32 * 4096 * 4_000_000 / 2)
    without = flops.forward_padded(shape, 1, 2000, False)
    assert flops.forward_padded(shape, 1, 2000, True) - without == pytest.approx(2 * shape.head * 2000)


@pytest.mark.parametrize(
    ("checkpointing", "adapters", "passes"), [(False, False, 3), (True, False, 4), (False, True, 2), (True, True, 3)]
)
def test_passes_of_a_training_step(checkpointing: bool, adapters: bool, passes: float) -> None:
    assert flops.training_passes(checkpointing, adapters) == passes


def test_a_batch_is_padded_to_the_mean_of_its_longest() -> None:
    lengths = np.array([1, 5, 7, 20])
    for count in (1, 2, 3):
        draws = [max(one) for one in itertools.product(lengths, repeat=count)]
        assert Lengths(lengths).longest_of(count) == pytest.approx(np.mean(draws))


@pytest.mark.parametrize(("stage", "passes", "rounds"), [(0, 4, 2), (1, 4, 2), (2, 4, 5), (3, 4, 12)])
def test_what_workers_send(stage: int, passes: int, rounds: float) -> None:
    assert flops.sent_bytes(100, 2, stage, passes) == rounds * 200


def test_memory_of_a_training_under_each_zero_stage() -> None:
    """Rajbhandari et al., table 1: 16 bytes a parameter in half precision, parted over the workers step by step."""
    shape, billion = llama_8b(), 8.030261248
    found = [training_bytes(shape, TrainingSetup(2, 8, stage, 2, 1000, True), True) for stage in range(4)]
    states = [(one.weights + one.gradients + one.optimizer) / 1e9 / billion for one in found]
    assert states == pytest.approx([16, 4 + 12 / 8, 2 + 14 / 8, 2])
    assert [one.activations for one in found] == [found[0].activations] * 4
    offloaded = training_bytes(shape, TrainingSetup(2, 8, 3, 2, 1000, True, offload_optimizer=True), True)
    assert (offloaded.optimizer, offloaded.weights) == (0, found[3].weights)
    adapters = training_bytes(shape, TrainingSetup(2, 1, 0, 2, 1000, True, adapters=16), True)
    assert adapters.weights == found[0].weights and adapters.optimizer == 12 * 16 * shape.linear
    assert 16 * shape.linear == 41_943_040  # what peft says of rank 16 on all linear layers


def test_activations_with_and_without_checkpoints() -> None:
    shape = llama_8b()
    whole, saved = (activation_bytes(shape, TrainingSetup(2, 1, 0, 4, 2048, flag)) for flag in (False, True))
    layer = 8 * 4096 + 2 * 1024 + 4 * 14336
    assert whole == 4 * 2048 * 32 * layer * 2
    assert saved == 4 * 2048 * (32 * 4096 + layer) * 2 < whole / 10


def test_memory_of_an_engine() -> None:
    shape = llama_8b()
    one = engine_bytes(shape, 2, 2048, False)
    assert 14 * GIB < one < 17 * GIB
    assert engine_bytes(shape, 2, 2048, False, 4) == one / 4
    assert engine_bytes(shape, 2, 4096, False) - one == 2 * 32 * 1024 * 2048 * 2  # keys and values
    encoder = shape_of(
        {**LLAMA_8B, "model_type": "bert", "architectures": ["BertModel"]}, llama_tensors(LLAMA_8B, tied=False)
    )
    assert engine_bytes(encoder, 2, 4096, False) == engine_bytes(encoder, 2, 8, False)  # keeps none


def test_a_checkpoint_holds_weights_and_optimizer() -> None:
    assert checkpoint_bytes(llama_8b(), TrainingSetup(2, 8, 3, 2, 1), True) == 14 * 8_030_261_248


def test_distinct_keys_of_a_whole() -> None:
    """Where repeats lie beside each other, where they lie anywhere, and where all is read."""
    draw = np.random.default_rng(0)
    beside, anywhere = np.repeat(np.arange(20_000), 5), draw.permutation(np.repeat(np.arange(20_000), 5))
    for keys in (beside, anywhere):
        starts = range(0, len(keys), len(keys) // 10)
        chunks = [keys[start : start + 1000] for start in starts]
        assert estimate_distinct(chunks, 0.1) == pytest.approx(20_000, rel=0.06)
    assert estimate_distinct([beside], 1.0) == 20_000
    assert estimate_distinct([np.arange(100)], 0.1) == pytest.approx(1000)
    assert estimate_distinct([np.empty(0)], 0.5) == 0
    assert expected_met(100, 100, 0.25) == pytest.approx(25)
