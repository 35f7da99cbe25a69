"""pdray from Python: a run as an object, what it wrote as Arrow and Ray Data, and the method on pairs.

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
from pdray.outputs import StageOutput, finished
from pdray.pair_rewards import score_pairs
from pdray.pieces import preference_divergence, select
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

    def estimate(self, on: str | None = None, price: float | None = None, address: str | None = None) -> Plan:
        """What the run will cost, as ``pdray plan`` tells it; starts nothing.

        Args:
            on: hardware as in ``8xH100``; None for this machine.
            price: dollars of a GPU-hour; None for a round figure.
            address: of the dashboard of a Ray cluster, whose nodes are the hardware.

        Raises:
            UserError: as :meth:`plan`; a value of an argument that is none; a corpus that cannot be sampled.
        """
        from pdray.plan.estimate import estimate

        return estimate(self.config, on, price, address)

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
