"""The checks on loss and dropout, and the stage before it starts a worker."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from pdray.alignment import stage
from pdray.config import SelectionConfig
from pdray.errors import UserError
from pdray.schema import CorpusOutput
from pdray.shards import ShardedFolder
from pdray.stages import Upstream
from pdray.storage import StoragePath
from tests import dpo_case, tiny

NOTHING = ShardedFolder(StoragePath("/nowhere"), "test", 1)


@pytest.mark.parametrize("loss", [0.7, 0.6920, math.nan, math.inf])
def test_first_loss_must_be_ln2(loss: float) -> None:
    from pdray.alignment.callbacks import check_loss

    check_loss(math.log(2) + 0.0009, step=1)
    with pytest.raises(UserError, match=r"must be ln 2 = 0\.693147 within 0\.001.*dropout"):
        check_loss(loss, step=1)


@pytest.mark.parametrize("loss", [math.log(2), 1.5012, 1.4988, math.nan])
def test_first_loss_of_dfpo_must_be_that_of_the_reference_on_the_same_pairs(loss: float) -> None:
    from pdray.alignment.callbacks import check_loss

    check_loss(1.5009, step=1, reference=(1.5, 0.5))
    check_loss(0.7, step=2, reference=(1.5, 0.5))
    with pytest.raises(UserError, match=r"first DFPO loss is .* the mean of log\(1 .* = 1\.500000 within 0\.001"):
        check_loss(loss, step=1, reference=(1.5, 0.5))


def test_the_first_loss_of_dfpo_may_be_off_as_far_as_dpos_for_the_same_error_of_m() -> None:
    """At κ = 4 and Δφ = −2.5 an error of M counts 3.7 times in the loss, 7.4 times as much as in DPO."""
    from pdray.alignment.callbacks import check_loss

    slope = 4 / (1 + math.exp(-2.5))
    check_loss(2.579 + 0.007, step=1, reference=(2.579, slope))
    with pytest.raises(UserError, match=r"within 0\.0074"):
        check_loss(2.579 + 0.008, step=1, reference=(2.579, slope))
    with pytest.raises(UserError, match=r"within 0\.0001"):
        check_loss(0.1 + 0.0002, step=1, reference=(0.1, 0.05))


def test_later_losses_must_be_numbers() -> None:
    from pdray.alignment.callbacks import check_loss

    check_loss(3.0, step=2)
    with pytest.raises(UserError, match=r"loss is nan at step 7; lower alignment\.learning_rate"):
        check_loss(math.nan, step=7)


def test_dropout_kept_as_a_number_is_silenced(tmp_path: Path) -> None:
    """Llama's attention keeps its dropout as a number, which TRL leaves on."""
    from transformers import AutoModelForCausalLM

    from pdray.alignment.worker import silence_dropout

    policy = tiny.tiny_llama_lm(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(policy, attention_dropout=0.3)
    attention = model.model.layers[0].self_attn
    assert attention.attention_dropout == 0.3
    silence_dropout(model)
    assert attention.attention_dropout == 0.0
    assert model.config.attention_dropout == 0.3, "the saved policy keeps its own config"


def test_settings_follow_the_policy_files_and_the_seed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    settings = dpo_case.alignment(tmp_path / "model")

    def identity(seed: int = 0, **changes: object) -> dict[str, object]:
        changed = settings.model_copy(update=changes)
        return stage.settings(dpo_case.context(tmp_path / "run", NOTHING, changed, 10, seed).config)

    before = identity()
    assert identity(save_steps=7, max_failures=3, num_workers=1, batch_size=2) == before
    assert identity(beta=0.2) != before
    assert identity(seed=1) != before
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert identity() != before


def test_too_few_kept_pairs_are_refused_before_ray(tmp_path: Path) -> None:
    settings = dpo_case.alignment(tiny.tiny_llama_lm(tmp_path / "policy"), pairs_per_step=16)
    ctx = dpo_case.context(tmp_path, NOTHING, settings, pairs=12)
    with pytest.raises(
        UserError, match=r"11 pairs are left to train on, but one optimizer step takes alignment\.pairs_per_step 16"
    ):
        stage.check(ctx.config, Upstream(corpus=CorpusOutput(1, 40, 80, ["a", "b"], {"a": 20, "b": 20}, False)))
    stage.check(ctx.config, Upstream())


def test_a_strategy_that_keeps_everything_has_enough_whatever_the_budget(tmp_path: Path) -> None:
    settings = dpo_case.alignment(tiny.tiny_llama_lm(tmp_path / "policy", chat=False), pairs_per_step=16, loss="dfpo")
    config = dpo_case.context(tmp_path, NOTHING, settings, pairs=40).config
    config.selection = SelectionConfig(strategy="all")
    few = Upstream(corpus=CorpusOutput(1, 40, 80, ["a", "b"], {"a": 20, "b": 20}, False))
    stage.check(config, few)
    config.selection = SelectionConfig(strategy="longest")
    with pytest.raises(UserError, match="11 pairs are left to train on"):
        stage.check(config, few)


def test_more_tokens_than_the_policy_reads_are_refused_before_ray(tmp_path: Path) -> None:
    """Such a policy would fail with an IndexError in its first forward pass."""
    policy = tiny.tiny_llama_lm(tmp_path / "policy", max_positions=256)
    stage.check(dpo_case.context(tmp_path, NOTHING, dpo_case.alignment(policy, max_tokens=256), 100).config, Upstream())
    config = dpo_case.context(tmp_path, NOTHING, dpo_case.alignment(policy, max_tokens=512), 100).config
    with pytest.raises(UserError, match=r"alignment\.max_tokens is 512, but .* reads at most 256 tokens; set"):
        stage.check(config, Upstream())


def test_what_is_shared_follows_what_decides_it(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run, settings = StoragePath(str(tmp_path / "run")), dpo_case.alignment(tmp_path / "model")

    def places(seed: int = 0, **changes: object) -> tuple[str, str]:
        changed = settings.model_copy(update=changes)
        return str(stage.input_shards(run, NOTHING, changed, seed).folder), str(stage.reference_store(run, changed))

    pairs, reference = places()
    assert places(beta=0.2, epochs=3, zero_stage=3, learning_rate=1.0, num_workers=4) == (pairs, reference)
    assert places(loss="dfpo") == (pairs, reference)
    assert places(max_tokens=32)[0] != pairs
    assert places(prompt_tokens=3)[0] != pairs
    assert places(seed=1)[0] != pairs
    assert places(max_tokens=32, prompt_tokens=3)[1] == reference, "a pair's tokens are its key"
    assert places(dtype="bfloat16")[1] != reference
    assert places(attn_implementation="eager")[1] != reference
    (tmp_path / "model" / "config.json").write_text("{ }")
    assert places()[0] != pairs
    assert places()[1] != reference


def test_a_contradiction_is_refused_before_ray(tmp_path: Path) -> None:
    settings = dpo_case.alignment(tmp_path, deepspeed={"bf16": {"enabled": True}})
    with pytest.raises(UserError, match=r"alignment\.deepspeed\.bf16 .* alignment\.dtype"):
        stage.check(dpo_case.context(tmp_path, NOTHING, settings, pairs=100).config, Upstream())


def test_importing_the_stage_loads_nothing_heavy() -> None:
    code = (
        "import sys, pdray.alignment.stage, pdray.alignment.worker\n"
        "assert not {'torch', 'deepspeed', 'trl', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("ray_local")
def test_workers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Ray Train would wait for them for ever."""
    settings = dpo_case.alignment(tmp_path, cpus_per_worker=2)
    ctx = dpo_case.context(tmp_path, NOTHING, settings, pairs=100)
    with pytest.raises(UserError, match=r"2 training worker.* of 2 CPUs .* holds 1; lower alignment\.num_workers"):
        stage.run(ctx)
