"""What a plan says beside its figures: what they rest on, and what is worth telling."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pdray.config import RunConfig
from pdray.plan import rates
from pdray.plan.cost import Known
from pdray.plan.hardware import CORE_TFLOPS, GIB, Hardware
from pdray.plan.passes import READ_BYTES
from pdray.plan.training import WRITTEN_BYTES
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from pdray.plan.estimate import StagePlan


def assumptions(known: Known) -> list[str]:
    """What the figures of a plan rest on, in sentences."""
    hardware, gpu = known.hardware, known.hardware.gpu
    told = ["a token costs 2 operations a parameter forward and 4 backward, and attention by the square of the length"]
    if gpu is None:
        told.append(f"a CPU core does {CORE_TFLOPS * 1000:g} GFLOP/s in float32 where nothing was measured")
    else:
        shares = ", ".join(f"{work} {share:.0%}" for work, share in rates.UTILISATION.items())
        told.append(
            f"{gpu.name}: {gpu.bf16_tflops:g} TFLOP/s dense in bfloat16, {gpu.fp32_tflops:g} in float32, "
            f"{gpu.gib:.0f} GiB, {gpu.memory_gb / 1000:g} TB/s; of the peak is reached: {shares}"
        )
        told.append(
            f"{hardware.nodes} node(s) with {hardware.cpus / hardware.gpus:g} CPUs and "
            f"{hardware.host_gib * hardware.nodes / hardware.gpus:.0f} GiB of memory a GPU"
            if not hardware.here
            else f"this machine, {hardware.cpus:g} CPUs and {hardware.host_gib:.0f} GiB"
        )
    told.append(
        "workers start in " + ", ".join(f"{work} {pair[gpu is not None]:g} s" for work, pair in rates.START.items())
    )
    told.append(
        f"weights are read at {READ_BYTES / 1e9:g} GB/s, and checkpoints written at {WRITTEN_BYTES / 1e9:g} GB/s a node"
    )
    return told


def notes_on(config: RunConfig, here: bool, stages: list[StagePlan], hardware: Hardware) -> list[str]:
    """What is worth telling of a plan, in sentences.

    Args:
        config: the run.
        here: whether it is planned for this machine.
        stages: of the plan.
        hardware: that it is planned for.
    """
    notes = [hardware.note] if hardware.note else []
    if here and config.cluster.address is not None:
        notes.append(
            "cluster.address names a cluster that a plan does not join; ask its dashboard with --address, as in "
            "http://HEAD:8265, or say what it has with --on, as in 8xH100"
        )
    if (left := max(stage.times for stage in stages)) > 1:
        notes.append(
            f"rounds is {config.rounds}: what each round has is told for all {left} that are to come, and corpus, "
            "proxies and scores are done once"
        )
    needed = sum(stage.cost.disk_bytes for stage in stages if stage.cost)
    free = _free_bytes(config.run) if here else None
    if free is not None and needed > free:
        notes.append(
            f"the run folder takes about {needed / GIB:,.0f} GiB more, but its disk has {free / GIB:,.0f} free; set "
            "run to another one"
        )
    stored = {stage.name: stage.cost.store_bytes / hardware.nodes for stage in stages if stage.cost}
    notes += [spilling(name, size, hardware) for name, size in stored.items() if size > hardware.store_bytes]
    if hardware.gpu is not None:
        notes += [hint for stage in stages if stage.cost for hint in stage.cost.hints]
    return notes


def spilling(stage: str, stored: float, hardware: Hardware) -> str:
    """That more bytes of a stage come to each node than its object store holds."""
    cure = "set selection.rank=none" if stage == "selection" else "take more nodes"
    held = hardware.store_bytes
    return (
        f"{stage} puts about {stored / GIB:,.0f} GiB into the object store of each node, which holds {held / GIB:,.0f} "
        f"of them; the other {(stored - held) / GIB:,.0f} go to the disk of Ray's session, which is slower: give it "
        f"the room (TMPDIR of a Ray that the run starts), or {cure}"
    )


def priceless(price: float | None, hardware: Hardware) -> list[str]:
    """That a price was given where no GPU is planned for, if it was."""
    if price is None or hardware.gpu is not None:
        return []
    where = "this machine" if hardware.here else "the cluster"
    return [
        f"--price is of a GPU-hour, but {where} has no GPU of a kind that is known here; say what there will be with "
        "--on, as in 8xH100"
    ]


def _free_bytes(run: str) -> int | None:
    """Free bytes of the disk that a local run folder lies on, or will."""
    root = StoragePath(run)
    if not root.is_local:
        return None
    path = Path(root.local)
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
