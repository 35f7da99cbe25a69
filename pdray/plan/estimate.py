"""The plan of a run: what there is, what is done, what the rest will cost, and by which assumptions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.pipeline import Step, check_all
from pdray.plan import rates
from pdray.plan.cluster import cluster_hardware
from pdray.plan.corpus import CorpusFacts, corpus_facts
from pdray.plan.cost import Cost, Known, Model
from pdray.plan.hardware import Hardware, parse_hardware, this_machine
from pdray.plan.lengths import Texts, logprobs_rule, pair_lengths, response_lengths, sampled, text_lengths
from pdray.plan.rates import read_rates
from pdray.plan.shape import read_model
from pdray.plan.stages import stage_costs
from pdray.plan.told import assumptions, notes_on, priceless
from pdray.responses import cut_rule
from pdray.rounds import ONCE, plan_rounds, rounds_left


@dataclass(frozen=True)
class StagePlan:
    """A stage of the plan.

    Attributes:
        name: of the stage.
        status: done, to run, or damaged.
        spent: seconds that a finished stage took; None of others.
        cost: what it will cost; None of a finished one.
        times: rounds that it is still to be made in, and that the cost is of.
    """

    name: str
    status: str
    spent: float | None
    cost: Cost | None
    times: int = 1


@dataclass(frozen=True)
class Plan:
    """What a run will cost. ``str()`` is what ``pdray plan`` prints.

    Attributes:
        run: its folder.
        hardware: what it is planned for.
        price: dollars of a GPU-hour; None where the hardware has no GPU.
        price_given: whether the user gave it.
        corpus: what there is.
        texts: tokens of the texts, by setting of the model that reads them.
        stages: in their order.
        assumptions: what the figures rest on, in sentences.
        notes: what is worth telling.
    """

    run: str
    hardware: Hardware
    price: float | None
    price_given: bool
    corpus: CorpusFacts
    texts: dict[str, Texts]
    stages: list[StagePlan]
    assumptions: list[str]
    notes: list[str]

    @property
    def to_run(self) -> list[tuple[str, Cost]]:
        """The stages that are not done, with their cost."""
        return [(stage.name, stage.cost) for stage in self.stages if stage.cost is not None]

    @property
    def problems(self) -> list[str]:
        """What does not fit, and which setting mends it."""
        return list(dict.fromkeys(problem for _, cost in self.to_run for problem in cost.problems))

    @property
    def seconds(self) -> float:
        """Of all stages that are to run and can."""
        return sum(cost.seconds or 0 for _, cost in self.to_run)

    @property
    def gpu_hours(self) -> float:
        """Of all stages that are to run and can."""
        return sum(cost.gpu_hours for _, cost in self.to_run)

    def __str__(self) -> str:
        from pdray.plan.table import table

        return table(self)

    def as_json(self) -> dict[str, Any]:
        """What ``pdray plan --json`` prints; a figure is named in ``exact`` where it is counted and not estimated."""
        corpus = {key: value for key, value in vars(self.corpus).items() if key != "sample"}
        stages = [
            {"name": stage.name, "status": stage.status, "spent_seconds": stage.spent, "times": stage.times}
            | (_cost(stage.cost, self.price) if stage.cost else {})
            for stage in self.stages
        ]
        return {
            "run": self.run,
            "hardware": asdict(self.hardware),
            "price": self.price,
            "corpus": corpus | {"exact": list(self.corpus.exact)},
            "tokens": {name: _tokens(self.corpus, texts) for name, texts in self.texts.items()},
            "stages": stages,
            "seconds": round(self.seconds, 1),
            "gpu_hours": round(self.gpu_hours, 3),
            "dollars": None if self.price is None else round(self.gpu_hours * self.price, 2),
            "problems": self.problems,
            "assumptions": self.assumptions,
            "notes": self.notes,
        }


def _cost(cost: Cost, price: float | None) -> dict[str, Any]:
    hours = {"gpu_hours": cost.gpu_hours, "cpu_hours": cost.cpu_hours}
    found = vars(cost) | {name: round(value, 4) for name, value in hours.items()}
    dollars = {"dollars": None if price is None else round(cost.gpu_hours * price, 2)}
    return found | dollars | {name: list(getattr(cost, name)) for name in ("problems", "hints")}


def _tokens(corpus: CorpusFacts, texts: Texts) -> dict[str, float]:
    return {
        "prompts": round(corpus.prompts * texts.prompts.mean),
        "responses": round(corpus.texts * texts.responses.mean),
        "of_prompt": round(texts.prompts.mean, 1),
        "of_response": round(texts.responses.mean, 1),
        "of_text_as_read": round(texts.whole.mean, 1),
        "longest_as_read": texts.whole.longest,
        "cut": round(texts.cut, 4),
    }


def estimate(config: RunConfig, on: str | None = None, price: float | None = None, address: str | None = None) -> Plan:
    """Plan a run; starts nothing and loads no weights.

    Args:
        config: the run.
        on: hardware as in ``8xH100``; None for this machine.
        price: dollars of a GPU-hour; None for the round figure of :data:`~pdray.plan.hardware.GPUS`.
        address: of the dashboard of a Ray cluster, whose nodes are the hardware.

    Raises:
        UserError: an input, a model or the run folder is not as it must be, ``on``, ``price`` or ``address`` is no such
            value, or the corpus cannot be sampled.
    """
    if on is not None and address is not None:
        raise UserError("--on and --address both name hardware; leave one of the two out")
    hardware = _named(on, config) if address is None else cluster_hardware(address, config.cluster.labels)
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--price is {price:g}, but has to be dollars of a GPU-hour, 0 or more")
    one, steps = plan_rounds(config)
    check_all(one, steps)
    known = gather(one, steps, hardware)
    costs = stage_costs(known)
    left = rounds_left(config, one)
    stages = [_staged(step, costs[step.stage.name], 1 if step.stage.name in ONCE else left) for step in steps]
    gpu_price = None if hardware.gpu is None else hardware.gpu.price if price is None else price
    texts = {name: model.texts for name, model in known.proxies.items() if model.texts is not None}
    return Plan(
        run=config.run,
        hardware=hardware,
        price=gpu_price,
        price_given=price is not None,
        corpus=known.corpus,
        texts=texts,
        stages=stages,
        assumptions=assumptions(known),
        notes=[
            *known.corpus.notes,
            *priceless(price, hardware),
            *notes_on(config, on is None and address is None, stages, hardware),
        ],
    )


def _named(on: str | None, config: RunConfig) -> Hardware:
    return this_machine(config.cluster.num_cpus) if on is None else parse_hardware(on)


def _staged(step: Step, cost: Cost, rounds: int) -> StagePlan:
    """A stage that is to be made in so many rounds, of which a finished one has been the first."""
    spent = None if step.manifest is None else float(step.manifest["seconds"])
    left = rounds - (spent is not None)
    if not left:
        return StagePlan(step.stage.name, "done", spent, None)
    return StagePlan(step.stage.name, "damaged" if step.damage else "to run", spent, cost.times(left), left)


def gather(config: RunConfig, steps: list[Step], hardware: Hardware) -> Known:
    """All that the arithmetic reads: the corpus, the models' sizes, lengths in tokens, measured rates.

    Raises:
        UserError: something of it cannot be read.
    """
    corpus = corpus_facts(config, steps[0])
    pairs = sampled(corpus, config.seed)
    lengths: dict[str, Texts] = {}

    def reward_model(name: str, folder: str) -> Model:
        if folder not in lengths:
            lengths[folder] = text_lengths(pairs, folder, config.scores)
        return Model(folder, read_model(f"{name} is {folder}", folder), lengths[folder])

    def model(name: str, folder: str) -> Model:
        return Model(folder, read_model(f"{name} is {folder}", folder))

    alignment, logprobs, evaluation = config.alignment, config.logprobs, config.evaluation
    held_out, num_held_out = None, 0
    if evaluation is not None and alignment is not None:
        from pdray.evaluation.pairs import read_pairs

        table, _ = read_pairs(evaluation.pairs, evaluation.max_pairs, config.seed)
        rule, num_held_out = cut_rule(alignment.max_tokens, alignment.prompt_tokens), len(table)
        held_out = response_lengths(_first(table), alignment.policy, rule)
    training = config.crossfit.training(alignment) if config.crossfit and alignment else None
    return Known(
        config=config,
        corpus=corpus,
        hardware=hardware,
        proxies={name: reward_model(name, folder) for name, folder in config.proxies.folders.items()},
        policy=model("alignment.policy", alignment.policy) if alignment else None,
        policy_pairs=pair_lengths(pairs, alignment).longest if alignment else None,
        logprobs={n: model(f"logprobs.{n}", folder) for n, folder in logprobs.folders.items()} if logprobs else {},
        logprob_texts=response_lengths(pairs, logprobs.policy, logprobs_rule(logprobs)) if logprobs else None,
        crossfit_pairs=pair_lengths(pairs, training).longest if training else None,
        crossfit_texts=response_lengths(pairs, training.policy, cut_rule(training.max_tokens, training.prompt_tokens))
        if training
        else None,
        judges={n: model(f"evaluation.reward_models.{n}.path", one.path) for n, one in evaluation.reward_models.items()}
        if evaluation
        else {},
        held_out=held_out,
        num_held_out=num_held_out,
        measured=read_rates(hardware),
        rate_key=rates.rate_key,
    )


def _first(table: pa.Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.slice(0, 500).to_pylist()
    return found
