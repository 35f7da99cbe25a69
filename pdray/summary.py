"""What ``pdray show`` prints: the manifests of a run as one object or one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pdray.store import RunStore, read_manifest

# Stage -> keys that `show --json` takes from its metrics (the manifest holds more).
SHOWN = {
    "corpus": ("aspect_rows", "quarantine_reasons", "conflict"),
    "proxies": ("aspects",),
    "scores": ("engine", "rows", "pairs_per_second", "max_parity_error", "truncated", "non_finite"),
    "selection": ("strategy", "budget", "rows", "cut_pd", "ids_sha256", "conflict"),
    "alignment": (
        "engine",
        "zero_stage",
        "num_workers",
        "steps",
        "first_loss",
        "last_loss",
        "eval_accuracy",
        "policy_path",
    ),
}


def summarise(run: str | Path) -> dict[str, Any]:
    """The state of a run: ``{"run", "stages": {name: {"status", ...}}}``.

    ``status`` is complete, running, incomplete (interrupted, or not begun), or not configured.

    Raises:
        UserError: there is no run in the folder.
    """
    store = RunStore(run)
    folders = store.read_state()["stages"]
    busy = store.is_locked()
    stages: dict[str, Any] = {}
    for name in SHOWN:
        manifest = read_manifest(store.root / folders[name]) if name in folders else None
        if manifest is not None:
            stages[name] = _shown(name, manifest) | {"folder": folders[name]}
        elif busy and name in folders and (store.root / folders[name]).exists():
            stages[name] = {"status": "running"}
        else:
            stages[name] = {"status": "incomplete" if name in folders else "not configured"}
    return {"run": str(store.root), "stages": stages}


def _shown(name: str, manifest: dict[str, Any]) -> dict[str, Any]:
    metrics = {key: manifest["metrics"].get(key) for key in SHOWN[name]}
    if metrics.get("conflict", 0) is None:
        del metrics["conflict"]
    common = {"status": "complete", "rows": manifest["rows_out"], "seconds": manifest["seconds"]}
    counted = {"quarantined": manifest["quarantined"]} if name == "corpus" else {}
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
