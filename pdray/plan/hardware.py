"""What a plan is made for: kinds of GPUs with their data sheets' figures, and this machine."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from pdray.errors import UserError

GIB = 2**30
# Of a node with GPUs: what most such machines have at least. Of a CPU: what two machines of two cores came to in
# float32, from a frozen MiniLM to DPO of SmolLM2-135M (the models of docs/benchmarks.md), utilisation included.
GPUS_PER_NODE, CPUS_PER_GPU, HOST_GIB_PER_GPU = 8, 12, 128
CORE_TFLOPS = 0.05
NETWORK_GB = 50.0  # a second for each GPU between nodes, one 400 Gb/s adapter
STORE_SHARE, MOST_STORE = 0.3, 200e9  # of a node's memory for Ray's object store, and bytes at most: Ray's defaults
MOST_GPUS = 100_000
FORM = re.compile(r"(\d{1,9})\s*x\s*([A-Za-z][\w-]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its data sheet (dense, without sparsity).

    Attributes:
        name: as after ``--on``.
        bf16_tflops, fp32_tflops: peak, 10^12 floating point operations a second.
        gib: memory.
        memory_gb: bandwidth of the memory, 10^9 bytes a second.
        link_gb: bandwidth to the other GPUs of a node, in one direction, 10^9 bytes a second.
        price: of an hour, in dollars; a round figure to compare plans by, no offer of anybody's.
    """

    name: str
    bf16_tflops: float
    fp32_tflops: float
    gib: float
    memory_gb: float
    link_gb: float
    price: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 989, 67, 80, 3350, 450, 3.0),
        Gpu("H200", 989, 67, 141, 4800, 450, 3.5),
        Gpu("A100-80", 312, 19.5, 80, 2039, 300, 1.8),
        Gpu("A100-40", 312, 19.5, 40, 1555, 300, 1.3),
        Gpu("L40S", 362, 91.6, 48, 864, 32, 1.2),
    )
}


@dataclass(frozen=True)
class Hardware:
    """Nodes of one kind.

    Attributes:
        name: for people, and what measured rates are kept by.
        gpu: kind of its GPUs, None where it has none.
        gpus: of all nodes together.
        nodes: how many.
        cpus: of all nodes together.
        host_gib: memory of each node.
        here: whether it is this machine.
        note: what is worth telling of how it was found, in a sentence.
    """

    name: str
    gpu: Gpu | None
    gpus: int
    nodes: int
    cpus: float
    host_gib: float
    here: bool = False
    note: str = ""

    @property
    def resources(self) -> list[dict[str, float]]:
        """CPUs and GPUs of each node, as Ray counts them."""
        return [{"CPU": self.cpus / self.nodes, "GPU": self.gpus / self.nodes}] * self.nodes

    @property
    def store_bytes(self) -> float:
        """Of Ray's object store on each node; what does not fit there goes to disk."""
        return min(STORE_SHARE * self.host_gib * GIB, MOST_STORE)

    @property
    def gpus_per_node(self) -> int:
        """On the fullest node."""
        return math.ceil(self.gpus / self.nodes)


def parse_hardware(text: str) -> Hardware:
    """What ``--on`` names, as in ``8xH100``: nodes of eight GPUs, or one with fewer.

    Raises:
        UserError: it is not a number and a kind of GPU that is known here.
    """
    found = FORM.fullmatch(text.strip())
    if found is None:
        raise UserError(f"--on is {text!r}, but has to be a number of GPUs and their kind, as in 8xH100")
    count, kind = int(found[1]), next((name for name in GPUS if name.lower() == found[2].lower()), None)
    if kind is None:
        raise UserError(f"--on names the GPU {found[2]!r}, of which nothing is known here; take {', '.join(GPUS)}")
    if not 1 <= count <= MOST_GPUS:
        raise UserError(f"--on asks for {count} GPUs; give a number from 1 to {MOST_GPUS:,}")
    return hardware_of(GPUS[kind], count)


def hardware_of(gpu: Gpu, count: int) -> Hardware:
    """So many GPUs in nodes of eight, all alike in CPUs and memory."""
    nodes = math.ceil(count / GPUS_PER_NODE)
    per_node = min(count, GPUS_PER_NODE)
    return Hardware(gpu.name, gpu, count, nodes, nodes * per_node * CPUS_PER_GPU, per_node * HOST_GIB_PER_GPU)


def this_machine(num_cpus: int | None = None) -> Hardware:
    """CPUs, memory and GPUs of this machine; its GPUs count where they are of a kind that is known here.

    Args:
        num_cpus: of ``cluster.num_cpus``.
    """
    cpus = num_cpus or os.cpu_count() or 1
    host_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    gpu, count = _own_gpus()
    name = gpu.name if gpu else f"{_cpu_name()}, {os.cpu_count() or 1} cores"
    return Hardware(name, gpu, count, 1, cpus, host_gib, here=True)


def _own_gpus() -> tuple[Gpu | None, int]:
    """What ``nvidia-smi`` lists; loading torch to ask it would take seconds."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None, 0
    try:
        query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        lines = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, 0
    return recognised([line for line in lines if line.strip()])


def recognised(lines: list[str]) -> tuple[Gpu | None, int]:
    """The kind and number of GPUs from lines as in ``NVIDIA H100 80GB HBM3, 81559``; other kinds do not count."""
    for gpu in GPUS.values():
        word = gpu.name.split("-")[0]
        own = [line for line in lines if re.search(rf"\b{word}\b", line)]
        if own:
            memory = own[0].rpartition(",")[2].strip()
            known = float(memory) / 1024 if memory.isdigit() else gpu.gib
            return replace(gpu, gib=known), len(own)
    return None, 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names and names[0] else os.uname().machine
