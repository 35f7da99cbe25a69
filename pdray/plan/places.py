"""How many workers the hardware of a plan holds, by the policy that the run applies."""

from __future__ import annotations

from pdray.errors import UserError
from pdray.plan.cost import Cost
from pdray.plan.hardware import GIB, Hardware
from pdray.runtime.placement import Need, places_for


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


def idle_hint(stage: str, setting: str, gpus_of_each: float, hardware: Hardware) -> tuple[str, ...]:
    """That a stage leaves the GPUs idle, if it does."""
    if not hardware.gpus or gpus_of_each:
        return ()
    return (f"{stage} leaves {hardware.gpus} GPUs idle; set {setting}=1 to use them",)
