"""How fast workers compute and how long they take to start: measured on a machine, or assumed and said to be.

Measured rates are kept in the user's cache folder, by hardware, model and kind of work:

    {"NAME OF THE HARDWARE": {"scoring 0123456789abcdef float32": {"tflops": 0.08, "start": 24.0, "from": "...", ...}}}
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pdray.cache import read_cache, write_cache
from pdray.hashing import digest
from pdray.identity import model_identity
from pdray.plan.hardware import CORE_TFLOPS, Hardware

CACHE = "rates.json"
Work = Literal["scoring", "logprobs", "training", "alignment", "evaluation"]
# Share of the data sheet's peak that is reached, for models of a billion parameters and more.
UTILISATION: dict[Work, float] = {
    "scoring": 0.45,
    "logprobs": 0.40,
    "training": 0.35,
    "alignment": 0.35,
    "evaluation": 0.25,
}
# Seconds before the first text or step: of workers on CPUs, and on GPUs with their kernels and graphs.
START: dict[Work, tuple[float, float]] = {
    "scoring": (25, 120),
    "logprobs": (25, 120),
    "training": (35, 90),
    "alignment": (40, 120),
    "evaluation": (20, 60),
}


@dataclass(frozen=True)
class Rate:
    """What is known of a kind of worker with one model.

    Attributes:
        tflops: 10^12 operations a second of one GPU, or of one CPU where it has none.
        start: seconds before the first text or step.
        measured: by what it was measured; None where it is assumed.
    """

    tflops: float
    start: float
    measured: str | None = None


Measured = dict[str, Rate]


def assumed(work: Work, hardware: Hardware, dtype: str, on_gpu: bool) -> Rate:
    """The rate by the data sheet and :data:`UTILISATION`, or of a CPU core."""
    start = START[work][1 if on_gpu else 0]
    if not on_gpu or hardware.gpu is None:
        return Rate(CORE_TFLOPS, start)
    peak = hardware.gpu.fp32_tflops if dtype == "float32" else hardware.gpu.bf16_tflops
    return Rate(peak * UTILISATION[work], start)


def rate_key(work: Work, folder: str, dtype: str, on_gpu: bool) -> str:
    """What a measured rate is kept by: the work, the content of the model, the precision, and what ran it."""
    parts = [f"{name} {identity}" for name, identity in model_identity(folder)]
    return f"{work} {digest(*parts)[:16]} {dtype} {'gpu' if on_gpu else 'cpu'}"


def read_rates(hardware: Hardware) -> Measured:
    """What was measured on such hardware; nothing where the cache cannot be read."""
    found: Measured = {}
    for key, value in _read().get(hardware.name, {}).items():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            rate = Rate(float(value["tflops"]), float(value["start"]), str(value["measured"]))
            if rate.tflops > 0 and rate.start >= 0:
                found[key] = rate
    return found


def write_rates(hardware: Hardware, rates: Measured) -> Path:
    """Add to what was measured, in place of older rates of the same kind.

    Returns:
        the file.

    Raises:
        OSError: it cannot be written.
    """
    whole = _read()
    whole[hardware.name] = whole.get(hardware.name, {}) | {key: asdict(rate) for key, rate in rates.items()}
    return write_cache(CACHE, whole)


def _read() -> dict[str, dict[str, Any]]:
    return {name: rates for name, rates in read_cache(CACHE).items() if isinstance(rates, dict)}
