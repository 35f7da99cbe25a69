"""How many workers the hardware of a plan holds, by the policy that the run applies."""

from __future__ import annotations

from pdray.errors import UserError
from pdray.plan.cost import Cost
from pdray.plan.hardware import GIB, Hardware
from pdray.plan.memory import CONTEXT
from pdray.runtime.placement import Need, places_for

SPLITS = (1, 2, 4, 8)  # GPUs that a model is split over


def fitting(need: Need, hardware: Hardware) -> tuple[int, str | None]:
    """Workers that fit at once, and why those that are needed do not, in a sentence."""
    try:
        return places_for(need, hardware.resources, grows=False).fitting, None
    except UserError as error:
        return 0, str(error)


def impossible(sentence: str) -> Cost:
    """Of a stage that cannot run so."""
    return Cost(None, 0, problems=(sentence,))


def host_problem(what: str, needed: float, hardware: Hardware, cure: str) -> tuple[str, ...]:
    """That a node has too little memory, if it has."""
    if needed <= hardware.host_gib * GIB:
        return ()
    return (
        f"{what} takes {needed / GIB:,.0f} GiB of memory on a node, which has {hardware.host_gib:,.0f}; {cure}, or "
        "take nodes with more",
    )


def gpu_problem(
    what: str, engine: float, gpus: float, setting: str, hardware: Hardware, halved: str | None = None, share: float = 1
) -> tuple[str, ...]:
    """That an engine is larger than its GPUs, or its part of one, if it is.

    Args:
        what: its section, or the part of it.
        engine: bytes on all its GPUs together.
        gpus: that it is split over; below 1 its part of one.
        setting: with these GPUs.
        hardware: that it runs on.
        halved: setting that halves the engine; None where there is none.
        share: of a GPU that it may take.
    """
    assert hardware.gpu is not None, "tasks with GPUs fit on hardware with GPUs"
    whole = share * hardware.gpu.gib * GIB

    def fits(size: float, number: float) -> bool:
        return size / max(1.0, number) + CONTEXT <= whole * min(1.0, number)

    if fits(engine, gpus):
        return ()
    split = next((one for one in SPLITS if gpus < one <= hardware.gpus_per_node and fits(engine, one)), None)
    cures = [halved] if halved and fits(engine / 2, gpus) else []
    cures += [f"{setting}={split}"] if split else []
    told = f"set {' or '.join(cures)}" if cures else "take a smaller model, or GPUs with more memory"
    return (
        f"{what} takes {(engine / max(1.0, gpus) + CONTEXT) / GIB:,.0f} GiB of a GPU, of which it has "
        f"{whole * min(1.0, gpus) / GIB:,.0f}; {told}",
    )


def idle_hint(stage: str, setting: str, gpus_of_each: float, hardware: Hardware) -> tuple[str, ...]:
    """That a stage leaves the GPUs idle, if it does."""
    if not hardware.gpus or gpus_of_each:
        return ()
    return (f"{stage} leaves {hardware.gpus} GPUs idle; set {setting}=1 to use them",)
