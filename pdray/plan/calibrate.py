"""``pdray plan --calibrate``: the rates of this machine with the models of a config, from finished runs or a small one.

A small run is a real one, of some pairs of the corpus and a few steps, in a folder of its own that is removed; its
manifests are read like those of any other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pdray.config import RunConfig
from pdray.errors import UserError
from pdray.pipeline import check_all, plan
from pdray.plan.cost import Known
from pdray.plan.estimate import gather
from pdray.plan.finished import rates_of, runs_beside
from pdray.plan.hardware import this_machine
from pdray.plan.rates import Measured, Rate, write_rates

STEPS = 4  # of the alignment
PAIRS = 240  # at least
OF_ASPECT, HELD_OUT = 64, 16  # pairs that a proxy is trained on, and held out


def calibrate(config: RunConfig, say: Callable[[str], None]) -> Measured:
    """Find the rates of this machine and keep them in the user's cache folder.

    Args:
        config: the run whose models and settings are measured.
        say: tells the user what is done.

    Returns:
        the rates by key.

    Raises:
        UserError: as ``pdray plan`` and ``pdray run``; the cache folder cannot be written.
    """
    hardware = this_machine(config.cluster.num_cpus)
    steps = plan(config)
    check_all(config, steps)
    known = gather(config, steps, hardware)
    wanted, found = wanted_keys(known), dict[str, Rate]()
    for run in runs_beside(config.run):
        fresh = {key: rate for key, rate in rates_of(run, known).items() if key in wanted and key not in found}
        if fresh:
            say(f"{run} tells {_works(set(fresh))}")
        found |= fresh
    if missing := wanted - found.keys():
        say(f"no finished run beside {config.run} tells {_works(missing)}; measuring with a small run")
        found |= {key: rate for key, rate in _measured(config, known).items() if key in missing}
    if missing := wanted - found.keys():
        say(f"{_works(missing)} took too short to be measured, and stay assumed")
    try:
        say(f"kept in {write_rates(hardware, found)}")
    except OSError as error:
        raise UserError(
            f"the rates cannot be kept ({error}); set XDG_CACHE_HOME to a folder that is writable"
        ) from None
    return found


def wanted_keys(known: Known) -> set[str]:
    """The rates that a plan of this config reads."""
    config, keys = known.config, set()
    proxies, scores, alignment = config.proxies, config.scores, config.alignment
    first, *_ = known.proxies.values()
    keys.add(known.rate_key("scoring", first.folder, scores.resolved_dtype, scores.gpus_per_actor > 0))
    if proxies.models is None and proxies.train == "all":
        keys.add(known.rate_key("training", first.folder, proxies.dtype, proxies.gpus_per_worker > 0))
    if alignment is not None:
        keys.add(known.rate_key("alignment", alignment.policy, alignment.dtype, alignment.gpus_per_worker > 0))
        if config.evaluation is not None:
            keys.add(known.rate_key("evaluation", alignment.policy, "float32", config.evaluation.gpus > 0))
    return keys


def _works(keys: set[str]) -> str:
    return ", ".join(sorted(key.partition(" ")[0] for key in keys))


def _measured(config: RunConfig, known: Known) -> Measured:
    from pdray.api import Run

    with tempfile.TemporaryDirectory(prefix="pdray-calibrate-") as scratch:
        small = small_run(config, Path(scratch), known)
        run = Run(small)
        run.run()
        rates = rates_of(run.config.run, known)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return {key: replace(rate, measured=f"a small run for it, {today}") for key, rate in rates.items()}


def small_run(config: RunConfig, folder: Path, known: Known) -> dict[str, Any]:
    """The settings of a run of some pairs with the models, engines and workers of a config; writes its corpus.

    Args:
        config: the config.
        folder: where the corpus is written and the run will be.
        known: holds pairs of the corpus.
    """
    alignment = config.alignment
    count = max(PAIRS, STEPS * alignment.pairs_per_step if alignment else 0)
    rows = np.random.default_rng([config.seed, 3]).permutation(len(known.corpus.sample))[:count]
    pq.write_table(known.corpus.sample.take(np.sort(rows)), folder / "pairs.parquet")
    settings = config.model_dump(mode="json")
    settings["run"] = str(folder / "run")
    settings["corpus"] = {"path": str(folder / "pairs.parquet"), "texts_per_shard": config.corpus.texts_per_shard}
    settings["rounds"] = 1  # no round could select without log-probabilities
    settings["logprobs"] = settings["crossfit"] = None
    settings["selection"] = {"strategy": "all", "rank": "none"}
    if config.proxies.models is None:
        settings["proxies"] |= {
            "max_pairs_per_aspect": OF_ASPECT,
            "max_held_out_pairs": HELD_OUT,
            "length_baseline": False,
            "epochs": 1.0,
            "report_to": [],
        }
    if alignment is not None:
        steps = max(1, min(STEPS, len(rows) // alignment.pairs_per_step))
        settings["alignment"] |= {"max_steps": steps, "held_out": 0.0, "report_to": [], "epochs": 1.0}
    if config.evaluation is not None:
        settings["evaluation"] |= {"max_pairs": OF_ASPECT, "generation": None, "reward_models": {}, "endpoints": {}}
    return settings
