"""The section ``cluster``: which Ray a run is on, and which of its nodes."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from pdray.config.section import Count, Section

# Ray's rule for labels of nodes, which is that of Kubernetes.
WORD = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
NAME = re.compile(rf"([a-zA-Z0-9]([a-zA-Z0-9.-]{{0,251}}[a-zA-Z0-9])?/)?{WORD}")


class ClusterConfig(Section):
    """Which Ray to run on."""

    address: str | None = Field(
        None, description="null starts a local Ray (or joins $RAY_ADDRESS); 'auto' joins the running one"
    )
    num_cpus: Count | None = Field(None, description="CPUs of a local Ray; null means all of them")
    labels: dict[str, str] = Field(
        {},
        description="label -> value, as in {pool: team-a}: all work goes to the nodes of the cluster that have every "
        "one of them (ray start --labels pool=team-a); the driver stays where it is",
    )

    @field_validator("labels")
    @classmethod
    def _as_ray_has_them(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, value in labels.items():
            if not NAME.fullmatch(name) or not re.fullmatch(WORD, value):
                raise ValueError(
                    f"has {name!r}: {value!r}, but a label of a node is 1 to 63 letters, digits, '-', '_' and '.', a "
                    "letter or a digit first and last; its name may begin with a domain and '/'"
                )
        return labels
