"""What one stage will cost, and what is known when that is worked out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pdray.config import RunConfig
from pdray.plan.corpus import CorpusFacts
from pdray.plan.flops import Lengths
from pdray.plan.hardware import Hardware
from pdray.plan.lengths import Texts
from pdray.plan.rates import Measured, Rate, Work, assumed
from pdray.plan.shape import ModelShape


@dataclass(frozen=True)
class Model:
    """A model that the run uses.

    Attributes:
        folder: of it.
        shape: its sizes.
        texts: what it reads of the corpus' texts as a reward model; None of a policy.
    """

    folder: str
    shape: ModelShape
    texts: Texts | None = None


@dataclass(frozen=True)
class Known:
    """All that the arithmetic reads; nothing is looked up from here on.

    Attributes:
        config: the run.
        corpus: its corpus.
        hardware: what it runs on.
        proxies: the models that ``proxies`` names: the base model, or ready ones, by the name of their setting.
        policy: of the alignment.
        policy_pairs: lengths of the pairs that it is trained on.
        logprobs: models by setting.
        logprob_texts: lengths of what they read.
        crossfit_pairs, crossfit_texts: lengths of pairs and texts as the cross-fitted trainings read them.
        judges: reward models that compare answers, by name.
        held_out: lengths of the pairs of the evaluation, and how many they are.
        measured: rates that were measured on such hardware.
        rate_key: names the measured rate of a kind of work, a model folder, a dtype, and whether on GPUs.
    """

    config: RunConfig
    corpus: CorpusFacts
    hardware: Hardware
    proxies: dict[str, Model]
    policy: Model | None = None
    policy_pairs: Lengths | None = None
    logprobs: dict[str, Model] = field(default_factory=dict)
    logprob_texts: Lengths | None = None
    crossfit_pairs: Lengths | None = None
    crossfit_texts: Lengths | None = None
    judges: dict[str, Model] = field(default_factory=dict)
    held_out: Lengths | None = None
    num_held_out: int = 0
    measured: Measured = field(default_factory=dict)
    rate_key: Callable[[Work, str, str, bool], str] = lambda work, folder, dtype, on_gpu: ""

    def rate(self, work: Work, model: Model, dtype: str, on_gpu: bool) -> Rate:
        """The measured rate of a model, else the assumed one."""
        key = self.rate_key(work, model.folder, dtype, on_gpu)
        return self.measured.get(key) or assumed(work, self.hardware, dtype, on_gpu)

    @property
    def num_aspects(self) -> int:
        """κ."""
        return len(self.corpus.aspects)


@dataclass(frozen=True)
class Cost:
    """What a stage will cost.

    Attributes:
        seconds: from its start to its end, those of its workers' start included; None where it cannot run so.
        start: of these, before the first text or step.
        gpus: that it holds.
        cpus: that it keeps busy.
        work: what is computed, in words.
        gpu_bytes: most memory of a GPU.
        host_bytes: most memory of a node.
        disk_bytes: that it leaves in the run folder.
        store_bytes: most in Ray's object store; what does not fit there goes to disk.
        measured: by what its rates were measured; None where all are assumed.
        problems: what does not fit, each in a sentence with the setting that mends it.
        hints: what would stand idle.
    """

    seconds: float | None
    start: float
    gpus: float = 0
    cpus: float = 0
    work: str = ""
    gpu_bytes: float = 0
    host_bytes: float = 0
    disk_bytes: float = 0
    store_bytes: float = 0
    measured: str | None = None
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    def times(self, rounds: int) -> Cost:
        """Of so many rounds, one after the other, each of which leaves its own files."""
        if rounds == 1:
            return self
        return replace(
            self,
            seconds=None if self.seconds is None else rounds * self.seconds,
            start=rounds * self.start,
            disk_bytes=rounds * self.disk_bytes,
            work=f"{rounds} × {self.work}",
        )

    @property
    def gpu_hours(self) -> float:
        """Of the GPUs that it holds, from its start to its end."""
        return self.gpus * (self.seconds or 0) / 3600

    @property
    def cpu_hours(self) -> float:
        """Of the CPUs that it keeps busy."""
        return self.cpus * (self.seconds or 0) / 3600
