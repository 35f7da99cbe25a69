"""What ``pdray show`` prints: the manifests of a run as one object or one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.pipeline import all_stages
from pdray.shards import MARKERS
from pdray.stages import Stage
from pdray.storage import StoragePath
from pdray.store import DamagedError, RunStore, read_attempts, read_manifest


def summarise(run: str | Path) -> dict[str, Any]:
    """The state of a run: ``{"run", "stages": {name: {"status", ...}}}``.

    ``status`` is complete, running, incomplete (interrupted, or not begun), damaged (its manifest cannot be read; the
    next run makes the stage again), or not configured. ``folder`` is below the run folder, ``holds`` below that.

    Raises:
        UserError: there is no run in the folder.
    """
    store = RunStore(run)
    folders = store.read_state()["stages"]
    busy = store.is_locked()
    stages: dict[str, Any] = {}
    for stage in all_stages():
        if stage.name not in folders:
            stages[stage.name] = {"status": "not configured"}
            continue
        stages[stage.name] = _state(stage, store.root / folders[stage.name], busy)
        busy = busy and stages[stage.name]["status"] != "running"  # stages run one after the other
    return {"run": str(store.root), "stages": stages}


def _state(stage: Stage, folder: StoragePath, busy: bool) -> dict[str, Any]:
    try:
        manifest = read_manifest(folder)
    except DamagedError as error:
        return {"status": "damaged", "reason": str(error)}
    if manifest is not None:
        holds = [name for name in folder.folders() if name != MARKERS]
        return _shown(stage, manifest) | {"folder": folder.name, "holds": holds}
    attempts = read_attempts(folder)
    return {"status": "running" if busy and attempts else "incomplete", "attempts": attempts}


def _shown(stage: Stage, manifest: dict[str, Any]) -> dict[str, Any]:
    metrics = {key: manifest["metrics"].get(key) for key in stage.shown}
    if metrics.get("conflict", 0) is None:
        del metrics["conflict"]
    common = {
        "status": "complete",
        "rows": manifest["rows_out"],
        "seconds": manifest["seconds"],
        "attempts": manifest.get("attempts", 1),
    }
    counted = {"quarantined": manifest["quarantined"]} if stage.name == "corpus" else {}
    return common | counted | metrics


def table(summary: dict[str, Any]) -> str:
    """The same for people: one block of lines per stage."""
    lines = [f"run {summary['run']}"]
    for name, stage in summary["stages"].items():
        seconds = f"{stage['seconds']:.0f} s" if "seconds" in stage else ""
        lines.append(f"\n{name:<10} {stage['status']:<14} {seconds}")
        lines += [f"  {key:<20} {value}" for key, value in _lines(name, stage)]
    return "\n".join(lines)


def _lines(name: str, stage: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in stage.items():
        if key in ("status", "seconds") or value is None:
            continue
        if name == "proxies" and key == "aspects":
            rows += [(f"aspect {aspect}", _proxy(proxy)) for aspect, proxy in value.items()]
        elif key == "attempts" and value <= 1:
            continue
        elif key == "holds":
            rows.append((key, "  ".join(f"{stage['folder']}/{name}/" for name in value)))
        elif isinstance(value, dict):
            rows.append((key.replace("_", " "), ", ".join(f"{k} {_number(v)}" for k, v in value.items()) or "none"))
        else:
            rows.append((key.replace("_", " "), _number(value)))
    return rows


def _proxy(proxy: dict[str, Any]) -> str:
    if proxy.get("held_out_accuracy") is None:
        return "ready model, not trained here"
    length = proxy.get("length_correlation") or {}
    correlation = "".join(f", length correlation {when} {_number(value)}" for when, value in length.items() if value)
    return f"{proxy['train_pairs']:,} pairs, held-out accuracy {_number(proxy['held_out_accuracy'])}{correlation}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
