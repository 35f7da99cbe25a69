"""SIGKILL to the driver, to a worker process, to an engine, to a node, to the head, in every stage."""

from __future__ import annotations

from functools import partial
from typing import Any

import psutil

from benchmarks.chaos.cluster import Node, family, title, workers
from benchmarks.chaos.lab import Account, Case, Lab, kind_for
from benchmarks.chaos.runs import READY, STAGES, VLLM, Driver, markers, stage_folder, wait_for

WORKERS = {"proxies": "ShardScorer", "scores": "ShardScorer", "alignment": "RayTrainWorker"}
# Progress, rolls and the controllers of Ray Train: they compute nothing of a stage.
HELPERS = ("Beside", "Controller", "StateManager", "LocationTracker", "JobSupervisor")


def kill_cases() -> dict[str, Case]:
    """The cases by name."""
    cases = {
        f"{victim.partition(' ')[0]}-{stage}": Case(f"kill -9 {victim}", stage, partial(kill, victim, stage))
        for stage in STAGES
        for victim in ("driver", "worker process", "node")
    }
    engine = partial(kill, "worker process", "scores", kind=VLLM)
    return cases | {
        "engine-scores": Case("kill -9 vLLM engine", "scores", engine),
        "head-scores": Case("kill -9 head", "scores", partial(kill, "head", "scores")),
        "head-alignment": Case("kill -9 head", "alignment", partial(kill, "head", "alignment")),
        "local": Case("kill -9 worker process, later driver", "scores", kill_both, needs_cluster=False),
    }


def kill(victim: str, stage: str, lab: Lab, kind: str = "") -> dict[str, Any]:
    """One victim, in the middle of one stage of a run on the cluster."""
    kind = kind or kind_for(stage)
    account = Account(lab, kind, lab.fresh(kind, stage, f"{victim.partition(' ')[0]}-{stage}"), stage)
    until = "alignment" if stage == "alignment" else "selection"
    driver = lab.drive(kind, account.run.uri, until)
    wait_for(f"the middle of {stage}", lambda: under_way(account), driver)
    strike(lab, account, driver, victim)
    account.finish(driver, until)
    assert victim != "head" or "does not answer" in driver.said(), driver.said()
    return account.row()


def kill_both(lab: Lab) -> dict[str, Any]:
    """A run with a Ray of its own: a scoring actor in its scores, then the driver in its selection."""
    account = Account(lab, READY, lab.fresh(READY, "scores", "both"), "scores")
    driver = lab.drive(READY, account.run.uri, "selection", on_cluster=False)
    wait_for("the middle of scores", lambda: under_way(account), driver)
    actor = wait_for("a scoring actor", lambda: scorer_of(driver), driver)
    account.struck()
    actor.kill()
    later = Account(lab, READY, account.run, "selection")
    wait_for("the middle of selection", lambda: under_way(later), driver)
    driver.process.kill()
    account.finish(driver, on_cluster=False)
    attempts = later.row()["attempts"]
    assert attempts == 2, f"the selection was begun {attempts} times"
    return account.row()


def scorer_of(driver: Driver) -> psutil.Process | None:
    """A scoring actor below a driver with a Ray of its own; None where there is none at the moment."""
    scorers = [one for one in workers(family(driver.process.pid)) if WORKERS["scores"] in title(one)]
    return scorers[0] if scorers else None


def under_way(account: Account) -> bool:
    """Whether the stage has begun and, where it has shards of its own that take a while, written one."""
    folder = stage_folder(account.run, account.stage)
    if folder is None or "attempts.json" not in folder.sizes():
        return False
    if account.stage == "alignment":
        return any(name.endswith("complete.json") for name in folder.sizes(recursive=True))
    return account.stage == "corpus" or len(markers(account.run, account.stage)) > 0


def strike(lab: Lab, account: Account, driver: Driver, victim: str) -> None:
    """Kill."""
    if victim == "driver":
        driver.process.kill()
    elif victim == "head":
        lab.nodes[0].kill("gcs_server")
    else:
        process, node = wait_for("a worker to kill", lambda: at_work(lab, account.stage), driver)
        if victim == "node":
            node.kill("raylet")
        else:
            process.kill()
    account.struck()


def at_work(lab: Lab, stage: str) -> tuple[psutil.Process, Node] | None:
    """A worker process of a stage, and its node; None where there is none at the moment."""
    for node in lab.nodes[1:]:
        for one in workers(node.members()):
            name = title(one)
            if WORKERS.get(stage, "") in name and not any(helper in name for helper in HELPERS):
                return one, node
    return None
