"""What ``pdray show`` prints: the manifests of a run as one object or one table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pdray.errors import UserError, escaped
from pdray.paths import is_closed, not_readable
from pdray.pipeline import all_stages
from pdray.selection.groups import in_order
from pdray.shards import MARKERS
from pdray.stages import Stage
from pdray.storage import StoragePath
from pdray.store import MANIFEST, ONCE, ROUNDS, DamagedError, RunStore, check_folder, read_attempts, read_manifest

IN_ROUNDS = "in rounds"  # status of a stage that every round has in a folder of its own
# Stages of which a run folder comes to hold several, and the settings that tell these apart.
SEVERAL = {"selection": ("strategy", "budget", "gamma"), "alignment": ("loss", "beta", "epochs", "learning_rate")}


def summarise(run: str | Path) -> dict[str, Any]:
    """The state of a run: ``{"run", "stages": {name: {"status", ...}}, "selection": [...], "alignment": [...]}``.

    The two lists have every selection and alignment that stands in the run folder, by ``folder``, ``current`` being the
    one that the last start asked for. ``status`` is complete, running, incomplete (interrupted, or not begun), damaged
    (its manifest or a table cannot be read; the next run makes the stage again, or says why not), in rounds (each of
    several has its own), or not configured. ``folder`` is below the run folder, ``holds`` below that. ``rounds`` is
    there where the run has several: their folders below the run folder, each a run of its own that has what follows the
    scores.

    Raises:
        UserError: there is no run in the folder, or it cannot be read.
    """
    if not str(run):
        raise UserError("the run folder to show is an empty path; name it, as in: pdray show runs/mine")
    store = RunStore(run)
    try:
        return _summary(store)
    except OSError as error:
        raise UserError(f"the run folder {store.root} cannot be read ({error}); mend that and try again") from None


def _summary(store: RunStore) -> dict[str, Any]:
    state = store.read_state()
    folders, busy = state["stages"], store.is_locked()
    config = state.get("config")
    several = isinstance(config, dict) and config.get("rounds", 1) != 1
    stages: dict[str, Any] = {}
    for stage in all_stages():
        if stage.name not in folders:
            stages[stage.name] = {"status": "not configured"}
            continue
        if several and stage.name not in ONCE:
            stages[stage.name] = {"status": IN_ROUNDS}
            continue
        stages[stage.name] = _state(stage, store.root / folders[stage.name], busy)
        busy = busy and stages[stage.name]["status"] != "running"  # stages run one after the other
    every = {name: _every(store.root, name, folders.get(name)) for name in SEVERAL}
    rounds = [f"{ROUNDS}/{name}" for name in sorted((store.root / ROUNDS).folders())]
    return {"run": str(store.root), "stages": stages, **every} | ({"rounds": rounds} if rounds else {})


def _every(root: StoragePath, stage: str, current: str | None) -> list[dict[str, Any]]:
    """What stands in the folders of one stage: one for each configuration that was ever run here."""
    found = []
    for name in root.folders():
        if not re.fullmatch(rf"{stage}-[0-9a-f]{{8}}", name):
            continue
        one: dict[str, Any] = {"folder": name, "current": name == current}
        try:
            manifest = _manifest(root / name)
        except DamagedError:
            found.append(one | {"status": "damaged"})
            continue
        if manifest is None:
            found.append(one | {"status": "incomplete"})
            continue
        config = manifest.get("config")
        settings = {key: config[key] for key in SEVERAL[stage] if key in config} if isinstance(config, dict) else {}
        found.append(one | {"status": "complete", "rows": manifest["rows_out"], **settings})
    return found


def _state(stage: Stage, folder: StoragePath, busy: bool) -> dict[str, Any]:
    try:
        check_folder(folder)
        manifest = _manifest(folder)
    except (DamagedError, UserError) as error:
        return {"status": "damaged", "reason": str(error)}
    if manifest is not None:
        return _shown(stage, manifest) | {"folder": folder.name, "holds": _held(folder)}
    attempts = read_attempts(folder)
    return {"status": "running" if busy and attempts else "incomplete", "attempts": attempts}


def _manifest(folder: StoragePath) -> dict[str, Any] | None:
    """As :func:`~pdray.store.read_manifest`; what stands in a folder that is closed counts as damaged."""
    manifest = read_manifest(folder)
    if manifest is not None and folder.is_local:
        for path in [(folder / name).uri for name in _held(folder)]:
            if is_closed(path):
                raise DamagedError(not_readable(path))
    return manifest


def _held(folder: StoragePath) -> list[str]:
    return [name for name in folder.folders() if name != MARKERS]


def _shown(stage: Stage, manifest: dict[str, Any]) -> dict[str, Any]:
    metrics = {key: manifest["metrics"].get(key) for key in stage.shown}
    for key in ("conflict", "licenses"):  # of corpora that do not say so
        if metrics.get(key, 0) is None:
            del metrics[key]
    attempts = manifest.get("attempts")
    common = {
        "status": "complete",
        "rows": manifest["rows_out"],
        "seconds": manifest["seconds"],
        "attempts": attempts if isinstance(attempts, int) else 1,
    }
    counted = {"quarantined": manifest["quarantined"]} if stage.name == "corpus" else {}
    return common | counted | metrics


def table(summary: dict[str, Any]) -> str:
    """The same for people: one block of lines per stage."""
    lines = [f"run {escaped(summary['run'])}"]
    for name, stage in summary["stages"].items():
        seconds = f"{_number(stage['seconds'], digits=0)} s" if "seconds" in stage else ""
        lines.append(f"\n{name:<10} {stage['status']:<14} {seconds}")
        lines += [f"  {escaped(key):<20} {escaped(value)}" for key, value in _told(name, stage)]
        if len(others := summary.get(name, [])) > 1:
            lines += [f"  {'current' if one['current'] else 'also here':<20} {escaped(_one(one))}" for one in others]
    if rounds := summary.get("rounds"):
        lines.append(f"\nrounds     {len(rounds)} so far; pdray show {summary['run']}/{rounds[-1]} tells the last")
    return "\n".join(lines)


def _told(name: str, stage: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        return _lines(name, stage)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return [("reason", f"{stage['folder']}/{MANIFEST} holds figures that are none of pdray's; --json shows them")]


def _one(one: dict[str, Any]) -> str:
    facts = {key: value for key, value in one.items() if key not in ("folder", "current", "status")}
    shown = [f"{key.replace('_', ' ')} {_number(value)}" for key, value in facts.items()]
    return f"{one['folder']}/  {', '.join([one['status'], *shown])}"


def _lines(name: str, stage: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in stage.items():
        if key in ("status", "seconds") or value is None:
            continue
        if name == "proxies" and key == "aspects":
            rows += [(f"aspect {aspect}", _proxy(proxy)) for aspect, proxy in value.items()]
        elif name == "evaluation" and key in ("accuracy", "aspects"):
            rows += (
                [(key, _accuracy(value))]
                if key == "accuracy"
                else [(f"aspect {aspect}", _accuracy(found)) for aspect, found in value.items()]
            )
        elif key == "win_rates":
            rows += [(f"judge {judge}", _win_rate(found)) for judge, found in value.items()]
        elif key == "attempts" and value <= 1:
            continue
        elif key == "holds":
            rows.append((key, "  ".join(f"{stage['folder']}/{name}/" for name in value)))
        elif key.startswith("share_by_"):  # JSON has them by the alphabet
            rows.append((key.replace("_", " "), ", ".join(f"{k} {_number(value[k])}" for k in in_order(value))))
        elif isinstance(value, dict):
            rows.append((key.replace("_", " "), ", ".join(f"{k} {_number(v)}" for k, v in value.items()) or "none"))
        else:
            rows.append((key.replace("_", " "), _number(value)))
    return rows


def _proxy(proxy: dict[str, Any]) -> str:
    if proxy.get("held_out_accuracy") is None:
        return "ready model, not trained here"
    length = proxy.get("length_correlation") or {}
    known = [(when, length[when]) for when in ("before", "after") if length.get(when)]
    correlation = "".join(f", length correlation {when} {_number(value)}" for when, value in known)
    found = _remedies(proxy) if proxy.get("reached_correlation") is not None else ""
    interval = proxy.get("held_out_interval")
    told = "" if not interval else f" ({_number(interval[0])} to {_number(interval[1])})"
    if proxy.get("confidence") is not None:
        told += f", by its margins {_number(proxy['confidence'])}"
    accuracy = _number(proxy["held_out_accuracy"])
    return f"{proxy['train_pairs']:,} pairs, held-out accuracy {accuracy}{told}{correlation}{found}"


def _remedies(proxy: dict[str, Any]) -> str:
    """The length remedies of a proxy of which some were found."""
    temperature, penalty = proxy.get("balance_temperature"), proxy.get("training_penalty") or proxy["length_penalty"]
    tau = "" if temperature is None else f" τ {_number(temperature)}"
    return f", found{tau} ρ {_number(penalty)}"


def _accuracy(found: dict[str, float]) -> str:
    return f"{found['mean']:.1%} ({found['low']:.1%} to {found['high']:.1%}) of {found['pairs']:,} pairs"


def _win_rate(found: dict[str, Any]) -> str:
    controlled = found["length_controlled"]
    left_out = "".join(f", {found[key]:,} {key}" for key in ("failed", "inconsistent") if found[key])
    return (
        f"wins {found['mean']:.1%} ({found['low']:.1%} to {found['high']:.1%}) of {found['pairs']:,}, at equal length "
        f"{controlled['mean']:.1%} ({controlled['low']:.1%} to {controlled['high']:.1%}), "
        f"win score {win_score(found)}{left_out}"
    )


def win_score(rate: dict[str, Any]) -> str:
    """The paper's AW of a judge's win rate, with its interval."""
    score = rate["average_win_score"]
    return f"{score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f})"


def _number(value: Any, digits: int = 3) -> str:
    if isinstance(value, dict):
        words = [f"{key.replace('_', ' ')} {_number(one)}" for key, one in value.items()]
        return f"({', '.join(words)})"
    if isinstance(value, list):
        return " ".join(map(_number, value))
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
