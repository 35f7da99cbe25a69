"""What stages cost, in numbers: proportions that must hold, what does not fit, and what mends it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import sweep
from pdray.plan import flops
from pdray.plan.cost import Cost, Model
from pdray.plan.flops import Lengths
from pdray.plan.generation import DECODING
from pdray.plan.hardware import GIB, GPUS, Hardware, parse_hardware, this_machine
from pdray.plan.memory import PROCESS
from pdray.plan.passes import pass_cost, reading
from pdray.plan.rates import START, UTILISATION, Rate
from pdray.plan.stages import kept_pairs, stage_costs
from pdray.plan.training import alignment_cost
from tests.plan.cases import config_of, facts_of, known_of, llama_1b


def test_the_alignment_by_hand() -> None:
    """8 B of weights, 300,000 pairs of 750 tokens on average on 8 H100 with checkpointing and ZeRO-3."""
    known = known_of(config_of())
    cost = alignment_cost(known, 300_000)
    assert cost.seconds is not None
    trained = 0.95 * 300_000
    text = 2 * 8.03e9 * 750 - 2 * 128256 * 4096 * 750 + 4 * 32 * 4096 * 750**2 / 2
    passes = (4 * trained + trained + 0.05 * 300_000 * 2) * 2  # training, reference and held-out pairs, of two texts
    computing = passes * text / (8 * 989e12 * UTILISATION["alignment"])
    assert computing < cost.seconds < 1.5 * computing  # start, sending and saving come on top
    assert cost.gpus == 8 and not cost.problems
    assert cost.gpu_hours == pytest.approx(8 * cost.seconds / 3600)
    assert cost.gpu_bytes < 80 * GIB
    assert cost.disk_bytes > 3 * 14 * 8e9


def test_a_measured_rate_takes_the_place_of_the_assumed_one() -> None:
    known = known_of(config_of())
    slow = replace(known, measured={"": Rate(10.0, 5.0, "a run")})
    slow = replace(slow, rate_key=lambda work, folder, dtype, on_gpu: "" if work == "scoring" else "other")
    for name, cost in stage_costs(slow).items():
        before = stage_costs(known)[name]
        assert (cost.measured == "a run") is (name == "scores")
        assert (cost != before) is (name == "scores")


def test_twice_the_gpus_halve_the_scoring_until_shards_run_out() -> None:
    config = config_of()
    seconds = {}
    for count in (8, 16, 512):
        known = known_of(config, f"{count}xH100")
        cost = stage_costs(known)["scores"]
        assert cost.seconds is not None
        seconds[count] = cost.seconds - cost.start, cost.gpus
    assert seconds[8][0] / seconds[16][0] == pytest.approx(2, rel=0.05)
    assert seconds[512][1] == 123  # two million texts are 123 shards of 16,384


def test_a_shared_prompt_is_computed_once() -> None:
    known = known_of(config_of())
    (model,) = known.proxies.values()
    whole = reading(model, 2e6, 2e6, known.config.scores)
    shared = reading(model, 2e6, 1e6, known.config.scores)
    assert whole.tokens - shared.tokens == 1e6 * 100
    assert shared.operations < whole.operations
    one_by_one = config_of(scores={"engine": "transformers"}).scores
    assert reading(model, 2e6, 1e6, one_by_one) == whole


def test_a_corpus_of_one_aspect_is_told_before_it_is_read() -> None:
    known = known_of(config_of())
    assert stage_costs(known)["corpus"].problems == ()
    one = replace(known, corpus=replace(known.corpus, aspects={"helpfulness": known.corpus.pairs}))
    (problem,) = stage_costs(one)["corpus"].problems
    assert "all labelled by helpfulness" in problem and "by at least two" in problem


def test_separate_proxies_cost_a_pass_each() -> None:
    shared, separate = (
        stage_costs(known_of(config_of(proxies={"kind": kind})))["scores"] for kind in ("shared", "separate")
    )
    assert shared.seconds is not None and separate.seconds is not None
    assert (separate.seconds - separate.start) / (shared.seconds - shared.start) == pytest.approx(4)


def test_heads_read_the_texts_of_used_pairs_and_scoring_the_rest() -> None:
    few = {"train": "head", "max_pairs_per_aspect": 1000, "max_held_out_pairs": 100}
    costs = stage_costs(known_of(config_of(proxies=few)))
    assert costs["proxies"].work.startswith("8,800 texts,")
    assert costs["scores"].work.startswith("1,991,200 texts,")
    whole = stage_costs(known_of(config_of(proxies={"train": "head"}), corpus=facts_of(1000)))
    assert whole["scores"].work == "all texts have features"
    assert whole["scores"].gpus == 0


def test_heads_are_fitted_by_cores_as_fast_as_those_that_read() -> None:
    config = config_of(proxies={"train": "head", "reading": "together"}, scores={"gpus_per_actor": 0})
    known = [known_of(config, corpus=facts_of(pairs), measured={"": Rate(speed, 10)}) for pairs, speed in CORES]
    slow, fast, larger = ((cost.seconds or 0) - cost.start for one in known if (cost := stage_costs(one)["proxies"]))
    assert slow == pytest.approx(2 * fast)
    assert 2 * fast < larger < 4 * fast, "the texts take four times as long, the heads twice"


CORES = ((4_000, 0.05), (4_000, 0.1), (16_000, 0.1))


def test_ready_models_are_read_one_after_the_other() -> None:
    ready = {"models": {"a": "/nowhere/a", "b": "/nowhere/b"}, "base_model": None}
    costs = stage_costs(known_of(config_of(proxies=ready)))
    assert (costs["proxies"].seconds, costs["proxies"].work) == (0, "ready models")
    one = stage_costs(known_of(config_of()))["scores"]
    assert costs["scores"].seconds is not None and one.seconds is not None
    assert costs["scores"].seconds - costs["scores"].start == pytest.approx(2 * (one.seconds - one.start))


def test_what_is_kept() -> None:
    assert kept_pairs(known_of(config_of())) == 300_000
    assert kept_pairs(known_of(config_of(selection={"strategy": "all"}))) == 1_000_000


SMALL = replace(parse_hardware("1xL40S"), gpu=replace(GPUS["L40S"], gib=24))


@pytest.mark.parametrize(
    ("section", "on", "cures"),
    [
        ({"gradient_checkpointing": False, "batch_size": 8}, "8xH100", "alignment.gradient_checkpointing=true"),
        ({"zero_stage": 0}, "8xH100", "alignment.zero_stage=3"),
        (
            {"num_workers": 1, "zero_stage": 2},
            "1xH100",
            "alignment.deepspeed={zero_optimization: {offload_optimizer: {device: cpu}}}",
        ),
        ({"num_workers": 1, "zero_stage": 2}, "1xSMALL", "alignment.lora={r: 16, alpha: 32}"),
    ],
)
def test_settings_that_mend_an_alignment_that_does_not_fit(section: dict[str, Any], on: str, cures: str) -> None:
    known = known_of(config_of(alignment=section), SMALL if on == "1xSMALL" else on)
    (problem,) = alignment_cost(known, 300_000).problems
    found = re.fullmatch(r"alignment takes ([\d,]+) GiB of a GPU, which has (\d+); set (.+)", problem)
    assert found is not None and found[3] == cures
    assert int(found[1].replace(",", "")) > int(found[2])


def test_a_policy_that_nothing_makes_fit() -> None:
    known = known_of(config_of(alignment={"num_workers": 1, "zero_stage": 2}), "1xH100")
    assert known.policy is not None
    huge = replace(known.policy.shape, body=10**12, active=10**12)
    (problem,) = alignment_cost(replace(known, policy=replace(known.policy, shape=huge)), 300_000).problems[-1:]
    assert problem.endswith("; take a smaller policy, more GPUs, or GPUs with more memory")


def test_settings_that_mend_engines_that_do_not_fit() -> None:
    known = known_of(config_of(scores={"dtype": "float32", "memory_share": 0.3}), "8xL40S")
    assert known.policy is not None
    (proxy,) = known.proxies.values()
    large = reading(replace(proxy, shape=known.policy.shape), 1e6, 1e6, known.config.scores)
    (problem,) = pass_cost(known, known.config.scores, [large], 1e6, "scoring").problems
    assert problem.endswith("leaves 14; set scores.dtype=bfloat16 or scores.gpus_per_actor=4")
    mended = config_of(scores={"dtype": "float32", "memory_share": 0.3, "gpus_per_actor": 4}).scores
    assert pass_cost(known, mended, [large], 1e6, "scoring").problems == ()


def test_more_workers_than_the_hardware_holds() -> None:
    costs = stage_costs(known_of(config_of(), "4xH100"))
    cost = costs["alignment"]
    assert cost.seconds is None and cost.gpu_hours == 0
    assert cost.problems[0].startswith("the config asks for 8 training worker(s) of 1 CPUs and 1 GPUs each, but the ")
    none = stage_costs(known_of(config_of(), replace(this_machine(), gpu=None, gpus=0)))
    assert [name for name, cost in none.items() if cost.seconds is None] == ["proxies", "scores", "alignment"]


def test_gpus_that_would_stand_idle_are_told() -> None:
    costs = stage_costs(known_of(config_of(scores={"gpus_per_actor": 0})))
    assert costs["scores"].hints == ("scores leaves 8 GPUs idle; set scores.gpus_per_actor=1 to use them",)
    assert costs["alignment"].hints == ()


def test_a_machine_with_too_little_memory() -> None:
    config = config_of(
        scores={"gpus_per_actor": 0}, proxies={"gpus_per_worker": 0}, alignment={"gpus_per_worker": 0, "num_workers": 2}
    )
    small = Hardware("small", None, 0, 1, 2, 8.0, here=True)
    costs = stage_costs(known_of(config, small))
    assert "GiB of memory on a node, which has 8; set alignment.zero_stage=3" in costs["alignment"].problems[0]
    assert "set scores.num_actors to 1" in costs["scores"].problems[0]


def test_logprobs_and_evaluation_read_what_they_read() -> None:
    config = config_of(
        logprobs={"policy": "/nowhere/p", "reference": "/nowhere/r", "gpus_per_actor": 1},
        evaluation={"pairs": "/nowhere/held.jsonl", "gpus": 1},
    )
    known = known_of(config)
    assert known.policy is not None
    lengths = Lengths(np.array([500]))
    models = {"policy": known.policy, "reference": known.policy}
    more: dict[str, Any] = {"logprobs": models, "logprob_texts": lengths, "held_out": lengths, "num_held_out": 2000}
    costs = stage_costs(replace(known, **more))
    one = stage_costs(replace(known, **more | {"logprobs": {"policy": known.policy}}))["logprobs"]
    assert list(costs) == ["corpus", "proxies", "scores", "logprobs", "selection", "alignment", "evaluation"]
    assert costs["logprobs"].seconds is not None and one.seconds is not None
    assert costs["logprobs"].seconds - costs["logprobs"].start == pytest.approx(2 * (one.seconds - one.start))
    assert costs["evaluation"].gpus == 4  # two thousand pairs are four tasks


def test_answers_cost_by_their_number_and_length_and_engines() -> None:
    def cost(on: str = "4xH100", held_out: int = 2000, **generation: Any) -> Cost:
        endpoints = {"gpt": {"url": "http://x", "model": "m"}}
        evaluation = {"pairs": "/nowhere/held.jsonl", "gpus": 1, "generation": {"gpus": 1} | generation}
        config = config_of(evaluation=evaluation | {"endpoints": endpoints})
        known = known_of(config, on, held_out=Lengths(np.array([500])), num_held_out=held_out)
        return stage_costs(known)["evaluation"]

    plain = cost()
    assert "2,000 answers of up to 512 tokens; 2,000 questions to gpt, not counted" in plain.work
    assert plain.seconds is not None
    for more in (cost("1xH100"), cost(max_tokens=1024), cost(max_prompts=2000)):
        assert more.seconds is not None and more.seconds > plain.seconds
    assert cost(max_prompts=5000).work == cost(max_prompts=2000).work  # there are no more held-out prompts
    assert "10,000 answers" in cost(max_prompts=5000, prompts="/nowhere/prompts.jsonl").work
    assert cost(gpus=8).problems[0].startswith("the config asks for 1 generation task(s) of 1 CPUs and 8 GPUs each")


def test_answers_by_hand() -> None:
    def known(held_out: int = 2000, **generation: Any) -> Any:
        evaluation = {"pairs": "/nowhere/held.jsonl", "gpus": 1, **generation}
        lengths = Lengths(np.array([500]))
        return known_of(config_of(evaluation=evaluation), "4xH100", held_out=lengths, num_held_out=held_out)

    def added(**generation: Any) -> tuple[Cost, float]:
        cost, without = (stage_costs(known(**one))["evaluation"] for one in ({"generation": generation}, {}))
        assert cost.seconds is not None and without.seconds is not None
        return cost, cost.seconds - without.seconds

    shape = known().policy.shape
    for tokens, read in ((1024, 500), (100, 100)):
        cost, seconds = added(gpus=1, prompt_tokens=tokens)
        work = flops.forward(shape, 2 * 1000, Lengths(np.array([read + 512])), True) / DECODING
        rate = GPUS["H100"].bf16_tflops * 1e12 * UTILISATION["logprobs"]
        assert seconds == pytest.approx(2 * START["logprobs"][1] + work / rate / 4)
        assert cost.gpus == 4
        assert cost.disk_bytes == 2000 * 40 + 2000 * 4 * 512
    few = stage_costs(known(held_out=100, generation={"gpus": 1}))["evaluation"]
    assert few.gpus == 2  # a hundred prompts are two parts


def test_rewards_of_the_answers_by_hand() -> None:
    def cost(on: str = "4xH100", held_out: int = 2000, gpus: float = 1, **judges: Any) -> Cost:
        generation = {"gpus": 1, "max_tokens": 512, "max_prompts": 1000}
        evaluation = {"pairs": "/nowhere/held.jsonl", "gpus": gpus, "generation": generation, "reward_models": judges}
        models = {name: Model(f"/nowhere/{name}", llama_1b()) for name in judges}
        lengths = Lengths(np.array([500]))
        known = known_of(config_of(evaluation=evaluation), on, held_out=lengths, num_held_out=held_out, judges=models)
        return stage_costs(known)["evaluation"]

    def added(tokens: int, **more: Any) -> float:
        judge = {"path": "/nowhere/a", "dtype": "bfloat16", "max_tokens": tokens}
        with_judge, without = cost(a=judge, **more), cost(**more)
        assert with_judge.seconds is not None and without.seconds is not None
        assert "2,000 rewards by a" in with_judge.work and "rewards" not in without.work
        assert with_judge.disk_bytes == without.disk_bytes + 2000 * 8
        return with_judge.seconds - without.seconds

    rate = GPUS["H100"].bf16_tflops * 1e12 * UTILISATION["evaluation"]
    for tokens, read in ((2048, 500 + 512), (800, 400 + 400), (1200, 500 + 512)):
        work = flops.forward(llama_1b(), 2000, Lengths(np.array([read])), False)
        assert added(tokens) == pytest.approx(START["evaluation"][1] + work / rate / 4)  # two waves of four of 8 tasks
    one = added(2048, on="1xH100")
    assert one - START["evaluation"][1] == pytest.approx(4 * (added(2048) - START["evaluation"][1]))
    judge = {"path": "/nowhere/a", "dtype": "float32"}
    both, first = cost(a=judge, b=judge), cost(a=judge)
    assert both.seconds is not None and first.seconds is not None and both.seconds > first.seconds
    assert both.gpu_bytes == first.gpu_bytes >= 4 * 1.2e9
    assert cost(a=judge, gpus=0).seconds is not None


def test_models_of_the_evaluation_that_do_not_fit() -> None:
    def problems(size: float, of_task: float = 1, on: str = "8xH100", **generation: Any) -> tuple[str, ...]:
        evaluation: dict[str, Any] = {"pairs": "/nowhere/held.jsonl", "gpus": of_task}
        if generation:
            evaluation |= {"generation": generation, "reward_models": {"rm": {"path": "/nowhere/rm"}}}
        known = known_of(config_of(evaluation=evaluation), on, held_out=Lengths(np.array([500])), num_held_out=100)
        assert known.policy is not None
        large = replace(known.policy, shape=replace(known.policy.shape, body=size))
        return stage_costs(replace(known, policy=large, judges={"rm": large}))["evaluation"].problems

    (pairs,) = problems(70e9)
    assert pairs == "evaluation takes 269 GiB of a GPU, of which it has 80; set evaluation.gpus=4"
    assert problems(70e9, 4) == problems(70e9, 0) == ()
    (nowhere,) = problems(70e9, on="2xH100")
    assert nowhere.endswith("of which it has 80; take a smaller model, or GPUs with more memory")
    (part,) = problems(11e9, 0.5)
    assert part.endswith("of which it has 40; set evaluation.gpus=1")
    (answers,) = problems(20e9, 4, gpus=1, dtype="float32")
    assert answers.startswith("evaluation.generation takes ") and " of which it has 64; set " in answers
    assert answers.endswith(" evaluation.generation.dtype=bfloat16 or evaluation.generation.gpus=2")
    _, rewards = problems(24e9, gpus=1)
    assert rewards.startswith("evaluation.reward_models.rm takes ")
    assert rewards.endswith("; set evaluation.reward_models.rm.dtype=bfloat16 or evaluation.gpus=2")


def test_what_does_not_fit_the_object_store_takes_no_memory_of_a_node() -> None:
    costs = stage_costs(known_of(config_of(selection={"rank": "all"}), corpus=facts_of(1e10)))
    assert costs["corpus"].store_bytes == 4e13 and costs["selection"].store_bytes == 1e12
    for name in ("corpus", "selection"):
        assert costs[name].host_bytes < 200 * GIB
    small = stage_costs(known_of(config_of(), "16xH100"))["corpus"]
    assert small.host_bytes - PROCESS == small.store_bytes / 2


def test_rounds_take_their_times_and_their_disk_and_the_same_memory() -> None:
    one = Cost(10, 3, gpus=2, host_bytes=4, disk_bytes=5, work="x")
    three = Cost(30, 9, gpus=2, host_bytes=4, disk_bytes=15, work="3 × x")
    assert (one.times(1), one.times(3)) == (one, three)
    assert replace(one, seconds=None).times(3).seconds is None


def test_cross_fitted_trainings_cost_one_for_each_fold_of_each_repeat() -> None:
    lengths = Lengths(np.array([500]))
    more: dict[str, Any] = {"crossfit_pairs": lengths, "crossfit_texts": lengths}

    def cost(**crossfit: int) -> Cost:
        config = config_of(crossfit={"gpus_per_actor": 1, **crossfit}, selection={"strategy": "selective"})
        return stage_costs(replace(known_of(config), **more))["crossfit"]

    one, three = cost(folds=2, repeats=1), cost(folds=2, repeats=3)
    assert one.work.startswith("2 × 7,813 steps of 64 pairs") and "; 2 × " in one.work
    assert three.work.startswith("6 × 7,813 steps") and "; 4 × " in three.work
    assert one.seconds is not None and three.seconds is not None
    assert 2 < three.seconds / one.seconds < 3  # the untouched policy reads once
    assert cost(folds=4, repeats=1).work.startswith("4 × 11,719 steps")
    assert cost(folds=2, repeats=1, max_steps=10).work.startswith("2 × 10 steps")


def test_tasks_of_the_evaluation_that_have_no_place_wait() -> None:
    config = config_of(evaluation={"pairs": "/nowhere/held.jsonl", "gpus": 1})
    seconds = []
    for on in ("4xH100", "2xH100", "1xH100"):
        known = known_of(config, on, held_out=Lengths(np.array([500])), num_held_out=2000)
        cost = stage_costs(known)["evaluation"]
        assert cost.seconds is not None
        seconds.append(cost.seconds - cost.start)
    assert [one / seconds[0] for one in seconds] == pytest.approx([1, 2, 4])  # four tasks


def test_the_sweep_is_monotonic_and_says_what_does_not_fit() -> None:
    rows = sweep.sweep()
    assert len(rows) == len(sweep.PAIRS) * len(sweep.COUNTS)
    for row in rows:
        assert (row["seconds"]["alignment"] is None) is bool(row["problems"])
    assert {row["gpus"] for row in rows if row["problems"]} == {1}
    for pairs in sweep.PAIRS:
        scoring = [row["seconds"]["scores"] for row in rows if row["pairs"] == pairs]
        assert scoring == sorted(scoring, reverse=True)
    for gpus in sweep.COUNTS:
        more = [row["seconds"]["selection"] for row in rows if row["gpus"] == gpus]
        assert more == sorted(more)
