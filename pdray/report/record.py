"""The last sections of the page: what the stages cost, and what the run was made from."""

from __future__ import annotations

from typing import Any

from pdray.plan import hardware
from pdray.report.plots import KEPT, Chart, chart, thousands
from pdray.report.run import RunView, StageView
from pdray.report.scan import Scan
from pdray.report.words import number
from pdray.schema import LogprobsOutput, ScoresOutput

# Stage -> the setting with the GPUs of one worker, and the metric that says how many workers there were.
GPUS = {
    "scores": ("gpus_per_actor", "num_actors"),
    "logprobs": ("gpus_per_actor", "num_actors"),
    "alignment": ("gpus_per_worker", "num_workers"),
}
RATES = {
    "pairs_per_second": "pairs/s",
    "texts_per_second": "texts/s",
    "tokens_per_second": "tokens/s",
    "seconds_per_step": "s a step",
}
PRICED = hardware.GPUS["H100"]  # a run does not say which GPUs it had
DIGESTS = ("ids_digest", "shards_digest")


def costs(run: RunView, scan: Scan | None) -> dict[str, Any] | None:
    """Seconds, rates, GPU-hours and what these cost, of every stage."""
    rows = [_cost(run, stage) for stage in run.configured if stage.complete]
    if not rows:
        return None
    gpu_hours = sum(row["gpu_hours"] for row in rows if row["gpu_hours"] is not None)
    return {
        "rows": rows,
        "charts": [_seconds([(row["name"], row["seconds"]) for row in rows])],
        "seconds": sum(row["seconds"] for row in rows),
        "gpu_hours": gpu_hours,
        "dollars": _dollars(gpu_hours),
        "gpu": PRICED,
    }


def _cost(run: RunView, stage: StageView) -> dict[str, Any]:
    seconds, rows = stage.manifest["seconds"], stage.manifest["rows_out"]
    gpu_hours = _gpu_hours(run, stage)
    rates = [(unit, number(stage.metrics[key], 1)) for key, unit in RATES.items() if stage.metrics.get(key)]
    return {
        "name": stage.name,
        "seconds": seconds,
        "rate": rows / seconds if seconds else None,
        "rates": rates,
        "gpu_hours": gpu_hours,
        "dollars": _dollars(gpu_hours),
        "attempts": stage.attempts,
        "started": str(stage.manifest.get("started", "")).replace("T", " ").removesuffix("Z"),
    }


def _dollars(gpu_hours: float | None) -> float | None:
    return gpu_hours * PRICED.price if gpu_hours else None


def _gpu_hours(run: RunView, stage: StageView) -> float | None:
    """GPUs that the workers held times the hours of the stage; None where nothing says how many they were."""
    section = run.section(stage.name)
    if stage.name == "proxies":
        gpus = _gpus_of_proxies(run, stage)
        return None if gpus is None else float(gpus * stage.manifest["seconds"] / 3600)
    if stage.name == "evaluation" and (section.get("gpus") or (section.get("generation") or {}).get("gpus")):
        return None
    if stage.name == "crossfit" and (section.get("gpus_per_actor") or run.section("alignment").get("gpus_per_worker")):
        return None  # trainings and passes take turns, with numbers of GPUs of their own
    setting, metric = GPUS.get(stage.name, ("", ""))
    gpus = section.get(setting) or 0
    workers = stage.metrics.get(metric)
    if gpus and workers is None:
        return None
    if isinstance(stage.output, ScoresOutput | LogprobsOutput):
        workers = min(workers or 0, stage.output.num_shards)  # a pool starts no more actors than there are shards
    return float(gpus * (workers or 0) * stage.manifest["seconds"] / 3600)


def _gpus_of_proxies(run: RunView, stage: StageView) -> float | None:
    """That they held; None where nothing says how many actors computed features, or models were trained at once."""
    section, metrics = run.section("proxies"), stage.metrics
    if metrics.get("trained") is False:
        return 0  # ready ones
    if metrics.get("train") == "head":
        return None if run.section("scores").get("gpus_per_actor") else 0
    gpus = section.get("gpus_per_worker") or 0
    if gpus and (metrics.get("train") != "all" or metrics.get("kind") != "shared"):
        return None
    return float(gpus * section.get("num_workers", 1))


def _seconds(found: list[tuple[str, float]]) -> Chart:
    def paint(axes: Any) -> None:
        places = list(range(len(found) - 1, -1, -1))
        axes.barh(places, [seconds for _, seconds in found], height=0.62, color=KEPT)
        axes.set_yticks(places, [name for name, _ in found])
        axes.set(xlabel="seconds")
        axes.xaxis.set_major_formatter(thousands)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)

    alt = "Seconds by stage: " + ", ".join(f"{name} {seconds:,.0f}" for name, seconds in found)
    return chart("seconds", "Time by stage", alt, paint, [("stage", "seconds"), *found], 0.75 + 0.3 * len(found))


def settings(run: RunView, scan: Scan | None) -> dict[str, Any]:
    """The configuration as YAML, versions and digests."""
    import yaml

    stages = [stage for stage in run.configured if stage.complete]
    versions: dict[str, set[str]] = {}
    for stage in stages:
        for package, version in stage.manifest.get("packages", {}).items():
            versions.setdefault(package, set()).add(version)
    digests = [(f"{stage.name} fingerprint", stage.manifest["fingerprint"]) for stage in stages]
    digests += [
        (f"{stage.name} {key.replace('_', ' ')}", stage.metrics[key])
        for stage in stages
        for key in DIGESTS
        if key in stage.metrics
    ]
    return {
        "yaml": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        "versions": sorted((package, ", ".join(sorted(found))) for package, found in versions.items()),
        "digests": digests,
    }
