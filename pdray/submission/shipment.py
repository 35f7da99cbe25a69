"""What goes to a cluster beside a config: the project, packages and variables, and what the driver reserves there."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdray.config.text import parse_yaml
from pdray.errors import UserError
from pdray.filesystems import read_regular

GIB = 2**30
# A working folder's, beside .git, .venv and what its .gitignore names, which Ray leaves out by itself.
EXCLUDED = ["runs"]


@dataclass(frozen=True)
class Shipment:
    """What goes with a job.

    Attributes:
        project: a wheel of pdray, or a folder that holds the package; None for the one that the cluster has installed.
        runtime_env: YAML file of a Ray runtime environment: ``pip``, ``env_vars`` and the like.
        driver_cpus: CPUs that the driver reserves; 0 leaves it on the head whatever the head has.
        driver_memory: GiB that the driver reserves.
    """

    project: str | None = None
    runtime_env: str | None = None
    driver_cpus: float = 0.0
    driver_memory: float = 0.0

    def words(self, scratch: Path) -> dict[str, Any]:
        """Arguments of ``JobSubmissionClient.submit_job``; those that are not asked for are left out.

        Args:
            scratch: a folder that stays until the job is submitted.

        Raises:
            UserError: the project is no wheel and no such folder, the file is none of a runtime environment, both name
                a working folder, or a resource is negative.
        """
        for name, value in (("cpus", self.driver_cpus), ("memory", self.driver_memory)):
            if not 0 <= value < float("inf"):
                raise UserError(f"--driver-{name} is {value:g}, but has to be a number, 0 or more")
        environment = _environment(self.runtime_env)
        if self.project is not None:
            environment = _with_project(environment, os.path.abspath(os.path.expanduser(self.project)), scratch)
        found = {
            "runtime_env": environment,
            "entrypoint_num_cpus": self.driver_cpus,
            "entrypoint_memory": int(self.driver_memory * GIB),
        }
        return {name: value for name, value in found.items() if value}


def _environment(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = parse_yaml(read_regular(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--runtime-env {path} cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise UserError(f"--runtime-env {path} has to hold settings such as pip and env_vars, each with its value")
    if odd := [name for name in ("py_modules", "excludes") if not isinstance(found.get(name, []), list)]:
        raise UserError(f"--runtime-env {path}: {odd[0]} has to be a list; write it as [A, B]")
    return found


def _with_project(environment: dict[str, Any], project: str, scratch: Path) -> dict[str, Any]:
    if project.endswith(".whl") and os.path.isfile(project):
        return environment | {"py_modules": [*environment.get("py_modules", []), _named_by_content(project, scratch)]}
    if not os.path.isfile(os.path.join(project, "pdray", "__init__.py")):
        raise UserError(
            f"--project is {project}, but has to be a wheel of pdray (pip wheel --no-deps .) or a folder that holds "
            "the package pdray; leave it out to use the one that is installed on the cluster"
        )
    if "working_dir" in environment:
        raise UserError("--project is a folder and --runtime-env names a working_dir as well; leave one of the two out")
    excludes = [*environment.get("excludes", []), *EXCLUDED]
    return environment | {"working_dir": project, "excludes": excludes}


def _named_by_content(wheel: str, scratch: Path) -> str:
    """A copy whose build tag is a digest: Ray knows a wheel by its name, and would go on using an earlier build."""
    content = read_regular(wheel)
    name, _, tags = os.path.basename(wheel).partition("-")
    version, _, tags = tags.partition("-")
    target = scratch / f"{name}-{version}-0{hashlib.sha256(content).hexdigest()[:12]}-{'-'.join(tags.split('-')[-3:])}"
    target.write_bytes(content)
    return str(target)
