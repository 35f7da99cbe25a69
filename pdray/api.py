"""pdray from Python: a run as an object, what it wrote as Arrow and Ray Data, and the method on arrays.

    import pdray

    run = pdray.Run("run.yaml")
    print(run.plan())                          # starts nothing
    selection = run.run(until="selection")["selection"]
    selection.table("kept")                    # pyarrow: prompt, chosen, rejected, ...
    smaller = run.select(budget=0.1)           # the scores are used again
    smaller.ray_dataset("kept")

A run is what ``pdray run`` makes of the same config: the command continues what Python began, and the other way round.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdray.config import RunConfig, build_config, load_config
from pdray.errors import UserError
from pdray.outputs import StageOutput, finished
from pdray.pair_rewards import score_pairs
from pdray.submission.shipment import Shipment
from pdray.submission.submit import Job, submit

__all__ = [
    "Job",
    "PlannedStage",
    "Run",
    "Shipment",
    "StageOutput",
    "preference_divergence",
    "score_pairs",
    "select",
    "submit",
]

if TYPE_CHECKING:
    import numpy as np

    from pdray.plan.estimate import Plan


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run.

    Attributes:
        name: corpus, proxies, scores, logprobs, crossfit, selection, alignment or evaluation.
        status: done, to run, or damaged (what is missing is made again).
        folder: where it writes, or has written.
    """

    name: str
    status: str
    folder: str

    def __str__(self) -> str:
        return f"{self.name:<10} {self.status:<7} {self.folder}"


class Run:
    """One run: a config, and the folder that it fills.

    Args:
        config: YAML file, mapping as in such a file, or a validated config.
        overrides: ``key=value`` as after ``--set``.

    Attributes:
        config: validated, its paths absolute.

    Raises:
        UserError: the config breaks a rule; every one that it breaks is named.
    """

    def __init__(self, config: RunConfig | Mapping[str, Any] | str | Path, overrides: Sequence[str] = ()) -> None:
        if isinstance(config, RunConfig):
            config = config.model_dump(mode="json")
        self.config = (
            build_config(copy.deepcopy(dict(config)), list(overrides))
            if isinstance(config, Mapping)
            else load_config(config, list(overrides))
        )

    def plan(self) -> list[PlannedStage]:
        """The stages in their order, and which are done; starts nothing.

        Raises:
            UserError: an input, a model or the run folder is not as it must be; all that is wrong is named.
        """
        from pdray.pipeline import check_all
        from pdray.rounds import plan_rounds

        config, steps = plan_rounds(self.config)
        check_all(config, steps)
        return [
            PlannedStage(
                step.stage.name,
                "done" if step.manifest else "damaged" if step.damage else "to run",
                str(step.folder),
            )
            for step in steps
        ]

    def estimate(self, on: str | None = None, price: float | None = None) -> Plan:
        """What the run will cost, as ``pdray plan`` tells it; starts nothing.

        Args:
            on: hardware as in ``8xH100``; None for this machine.
            price: dollars of a GPU-hour; None for a round figure.

        Raises:
            UserError: as :meth:`plan`; a value of ``on`` or ``price`` that is none; a corpus that cannot be sampled.
        """
        from pdray.plan.estimate import estimate

        return estimate(self.config, on, price)

    def run(self, until: str | None = None, wait: float = 0.0) -> dict[str, StageOutput]:
        """Run what is not done yet, as ``pdray run`` does; progress goes to standard error.

        Args:
            until: name of the last stage; None runs all.
            wait: seconds in which another driver may let go of the run folder.

        Returns:
            every finished stage by its name.

        Raises:
            UserError: something to mend; the message says how.
            RunFolderBusyError: another driver holds the run folder.
        """
        from pdray.rounds import run

        return finished(run(self.config, until, wait))

    def select(self, **changes: Any) -> StageOutput:
        """The selection under other settings; what does not depend on them is used again.

        Args:
            changes: settings of the section ``selection``, as in ``budget=0.1, strategy="random"``.

        Raises:
            UserError, RunFolderBusyError: as :meth:`run`.
        """
        settings = self.config.model_dump(mode="json")
        settings["selection"] = settings["selection"] | changes
        return Run(settings).run(until="selection")["selection"]

    def outputs(self) -> dict[str, StageOutput]:
        """Every stage that is finished under this config, by its name; of several rounds, those of the last.

        Raises:
            UserError: as :meth:`plan`.
        """
        from pdray.rounds import plan_rounds

        return finished(plan_rounds(self.config)[1])


def preference_divergence(
    margins: np.ndarray, own: np.ndarray, gamma: float = 0.9, weights: Sequence[float] | None = None
) -> np.ndarray:
    """PD of pairs whose reward margins are at hand, in one process (eq. 13-15); a run does the same over its shards.

    Args:
        margins: (n, κ), chosen less rejected, of every aspect's reward model; NaN where not known.
        own: (n,) int, index of the aspect that labelled the pair.
        gamma: γ, the quantile of an aspect's absolute margins on the pairs that it did not label, which scales to 1.
        weights: see ``selection.weights``; None is 1 for each.

    Returns:
        (n,) float64 in [−(κ−1), κ−1] where all weights are 1; NaN where a needed margin is.

    Raises:
        UserError: shapes that do not fit.
    """
    import numpy as np

    from pdray.selection import divergence

    values, labels = np.asarray(margins, np.float32), np.asarray(own)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise UserError(f"margins of shape {values.shape} and own of shape {labels.shape}; (n, κ) and (n,) are needed")
    if len(labels) and not 0 <= labels.min() <= labels.max() < values.shape[1]:
        raise UserError(f"own holds {labels.min()} to {labels.max()}, but there are {values.shape[1]} aspects, from 0")
    scaled = []
    for aspect in range(values.shape[1]):
        sizes = np.sort(np.abs(values[(labels != aspect) & np.isfinite(values[:, aspect]), aspect]))
        quantile = float(sizes[divergence.quantile_rank(gamma, len(sizes)) - 1]) if len(sizes) else float("nan")
        scaled.append(divergence.scale_margins(values[:, aspect], quantile))
    return divergence.preference_divergence(np.stack(scaled, axis=1), labels, weights)


def select(divergence: np.ndarray, pair_ids: Sequence[str], budget: float) -> np.ndarray:
    """Which pairs are kept: the ⌊λn⌋ with the smallest divergence, ties by the smaller id; never one that is NaN.

    Args:
        divergence: (n,) float64.
        pair_ids: n ids, compared by their UTF-8 bytes.
        budget: λ in (0, 1].

    Returns:
        (n,) bool, as many as the budget or the finite ones are.
    """
    import numpy as np

    from pdray.selection.divergence import num_kept

    values = np.asarray(divergence, np.float64)
    if values.shape != (len(pair_ids),):
        raise UserError(f"divergence of shape {values.shape} for {len(pair_ids)} ids; one number for each is needed")
    finite = np.flatnonzero(np.isfinite(values)).tolist()
    kept = sorted(finite, key=lambda row: (values[row], pair_ids[row].encode()))[: num_kept(budget, len(values))]
    mask = np.zeros(len(values), bool)
    mask[kept] = True
    return mask
