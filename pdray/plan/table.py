"""A plan as text of at most 100 columns."""

from __future__ import annotations

import textwrap

from pdray.plan.cost import Cost
from pdray.plan.estimate import Plan, StagePlan
from pdray.plan.hardware import GIB, Hardware

WIDTH = 100
COLUMNS = (  # heading, width
    ("stage", -11),
    ("state", -8),
    ("time", 9),
    ("GPU-h", 8),
    ("CPU-h", 8),
    ("dollars", 8),
    ("GPU GiB", 8),
    ("host GiB", 9),
    ("disk GiB", 9),
    ("store", 7),
)


def table(plan: Plan) -> str:
    """What ``pdray plan`` prints."""
    lines = [*_wrapped(f"plan of {plan.run} on {_hardware(plan.hardware)}"), "", *_corpus(plan), ""]
    lines.append(_row([heading for heading, _ in COLUMNS]))
    for stage in plan.stages:
        lines.append(_row(_stage(stage, plan.price)))
    whole = [cost for _, cost in plan.to_run]
    if whole:
        lines.append(_row(_sum(whole, plan.price)))
        lines.append("~ assumed, not measured; GPU GiB of each GPU, host GiB of each node, store: Ray's object store")
    for title, sentences in (
        ("does not fit", plan.problems),
        ("measured", sorted({cost.measured for cost in whole if cost.measured})),
        ("notes", plan.notes),
        ("assumed", [*plan.assumptions, _price(plan)] if plan.price is not None else plan.assumptions),
    ):
        if sentences:
            lines += ["", title, *(line for sentence in sentences for line in _wrapped(sentence, "  "))]
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


def _hardware(hardware: Hardware) -> str:
    if hardware.gpu is None and not hardware.here:
        return f"{hardware.name}: {hardware.cpus:g} CPUs, {hardware.host_gib:.0f} GiB each, no GPU"
    if hardware.gpu is None:
        return f"this machine: {hardware.cpus:g} CPUs, {hardware.host_gib:.0f} GiB, no GPU"
    where = "this machine: " if hardware.here else ""
    return f"{where}{hardware.gpus} × {hardware.gpu.name}, {hardware.nodes} node(s)"


def _price(plan: Plan) -> str:
    whose = "as you gave it" if plan.price_given else "a round figure to compare plans by; give your own with --price"
    return f"a GPU-hour costs {plan.price:g} dollars, {whose}"


def _corpus(plan: Plan) -> list[str]:
    corpus = plan.corpus
    lines = [f"corpus ({corpus.source}, {corpus.read:,} rows read)"]
    for name in ("rows", "pairs", "prompts", "texts"):
        about = "" if name in corpus.exact else "  about"
        lines.append(f"  {name:<20} {getattr(corpus, name):>15,.0f}{about}")
    aspects = ", ".join(f"{aspect} {count:,.0f}" for aspect, count in corpus.aspects.items())
    lines += _wrapped(f"{'aspects':<20} {aspects}", "  ")
    for name, texts in list(plan.texts.items())[:1]:  # one model's tell the size of the corpus; --json has all
        prompts, responses = corpus.prompts * texts.prompts.mean, corpus.texts * texts.responses.mean
        told = (
            f"tokens by {name}: prompts {_count(prompts)} ({texts.prompts.mean:,.0f} each), responses "
            f"{_count(responses)} ({texts.responses.mean:,.0f} each); read together {texts.whole.mean:,.0f} a text, "
            f"{texts.cut:.1%} of the texts cut"
        )
        lines += _wrapped(told, "  ")
    return lines


def _stage(stage: StagePlan, price: float | None) -> list[str]:
    if stage.cost is None:
        return [stage.name, stage.status, f"{duration(stage.spent or 0)} spent"]
    state = f"run × {stage.times}" if stage.times > 1 else stage.status
    return [stage.name, state, *_figures(stage.cost, price)]


def _figures(cost: Cost, price: float | None) -> list[str]:
    if cost.seconds is None:
        return ["not so"]
    return [
        duration(cost.seconds) + ("" if cost.measured else " ~"),
        _hours(cost.gpu_hours),
        _hours(cost.cpu_hours),
        f"{cost.gpu_hours * price:,.2f}" if price is not None and cost.gpus else "",
        *(_gib(size) for size in (cost.gpu_bytes, cost.host_bytes, cost.disk_bytes, cost.store_bytes)),
    ]


def _sum(costs: list[Cost], price: float | None) -> list[str]:
    gpu_hours = sum(cost.gpu_hours for cost in costs)
    return [
        "all",
        "",
        duration(sum(cost.seconds or 0 for cost in costs)),
        _hours(gpu_hours),
        _hours(sum(cost.cpu_hours for cost in costs)),
        f"{gpu_hours * price:,.2f}" if price is not None and gpu_hours else "",
        _gib(max(cost.gpu_bytes for cost in costs)),
        _gib(max(cost.host_bytes for cost in costs)),
        _gib(sum(cost.disk_bytes for cost in costs)),
        _gib(max(cost.store_bytes for cost in costs)),
    ]


def _row(cells: list[str]) -> str:
    told = [
        f"{cell:<{-width}}" if width < 0 else f" {cell:>{width - 1}}"
        for cell, (_, width) in zip(cells, COLUMNS, strict=False)
    ]
    return "".join(told).rstrip()


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h`` or ``5.1 d``."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit != "h" else f"{value:.1f} h"
    return f"{seconds / 86_400:,.1f} d"


def _count(number: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            return f"{number / (1e3 if unit == 'k' else limit):,.1f} {unit}"
    return f"{number:,.0f}"


def _hours(hours: float) -> str:
    return "" if not hours else f"{hours:,.2f}" if hours < 1000 else f"{hours:,.0f}"


def _gib(size: float) -> str:
    value = size / GIB
    return "" if not size else f"{value:,.1f}" if value >= 0.05 else "<0.1"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ") or [text]
