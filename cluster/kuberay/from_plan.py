"""The chart's values for the workers, from what ``pdray plan`` says that a run needs.

    pdray plan run.yaml --on 16xH100 --json | python cluster/kuberay/from_plan.py > plan.yaml
    helm template mine cluster/kuberay -f plan.yaml --set-file run.config=run.yaml

Nothing that the plan does not know is set: images, storage and node labels stay those of values.yaml.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

GIB = 2**30
# Of a pod's memory Ray takes 30% for its object store, and a fifth of the rest stays free.
WORK_SHARE = 0.56
LEAST_GIB = 8
# Of a node's CPUs, what the machine and Kubernetes keep.
POD_SHARE = 0.9


def values(plan: dict[str, Any]) -> dict[str, Any]:
    """Values of the chart.

    Args:
        plan: what ``pdray plan --json`` prints.

    Returns:
        ``gpuWorkers`` (a pod for each node that was planned for) and ``cpuWorkers`` (memory and disk alone: their
        number decides how fast the corpus and the selection are, not whether they fit).

    Raises:
        ValueError: the plan has no GPUs, or a stage does not fit.
    """
    hardware = plan["hardware"]
    if not hardware["gpus"]:
        raise ValueError("the plan is for a machine without GPUs; make it for those you mean to have: --on 8xH100")
    if plan["problems"]:
        raise ValueError(f"the plan does not fit: {'; '.join(plan['problems'])}")
    to_run = [stage for stage in plan["stages"] if stage["status"] != "done"]
    on_gpus = [stage for stage in to_run if stage["gpus"]]
    without = [stage for stage in to_run if not stage["gpus"]]
    nodes = hardware["nodes"]
    return {
        "gpuWorkers": {
            "max": nodes,
            "gpus": math.ceil(hardware["gpus"] / nodes),
            "cpu": max(1, math.floor(hardware["cpus"] / nodes * POD_SHARE)),
            **_sizes(on_gpus, nodes),
        },
        "cpuWorkers": _sizes(without, 1),
    }


def _sizes(stages: list[dict[str, Any]], nodes: int) -> dict[str, str]:
    """Memory of a pod, and disk: for twice what passes through the object store, and the models."""
    memory = max((stage["host_bytes"] for stage in stages), default=0) / WORK_SHARE
    spilled = 2 * max((stage["store_bytes"] for stage in stages), default=0) / nodes
    return {
        "memory": f"{max(LEAST_GIB, math.ceil(memory / GIB))}Gi",
        "disk": f"{50 + math.ceil(spilled / GIB)}Gi",
    }


def price_line(plan: dict[str, Any]) -> str:
    """Hours and dollars of the plan, as a comment."""
    hours = plan["seconds"] / 3600
    dollars = "" if plan["dollars"] is None else f", {plan['dollars']:,.2f} dollars"
    return f"# {hours:,.1f} h, {plan['gpu_hours']:,.1f} GPU-hours{dollars}, by pdray plan; not measured"


def main() -> int:
    """Read a plan from standard input, print the values."""
    import yaml

    try:
        plan = json.load(sys.stdin)
        text = yaml.safe_dump(values(plan), sort_keys=False)
    except json.JSONDecodeError:
        print("from_plan.py: standard input is no plan; pipe `pdray plan run.yaml --json` into it", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"from_plan.py: {error}", file=sys.stderr)
        return 2
    print(price_line(plan))
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
