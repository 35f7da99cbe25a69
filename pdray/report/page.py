"""The page itself: sections to HTML, one file without anything outside it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pdray.errors import UserError
from pdray.paths import is_remote, lacks_a_slash
from pdray.report import PAGE, compare, record, sections, words
from pdray.report.run import RunView, read_run
from pdray.report.scan import Scan, scan
from pdray.report.sections import Section
from pdray.report.tables import ODD, PairTables, UnreadableError
from pdray.storage import StoragePath

HERE = Path(__file__).parent
SECTIONS = (
    Section("flow", "What became of the rows", (), sections.flow),
    Section("divergence", "Divergence and conflict", ("proxies", "selection"), sections.divergence),
    Section("kept", "Who is kept", ("corpus", "selection"), sections.kept),
    Section("proxies", "Proxy reward models", ("proxies",), sections.proxies),
    Section("alignment", "Training", ("alignment",), sections.alignment),
    Section("evaluation", "Evaluation", ("evaluation",), sections.evaluation),
    Section("samples", "Pairs to read", ("selection",), sections.samples),
    Section("costs", "Time", (), record.costs),
    Section("settings", "Settings, versions, digests", (), record.settings),
)
SECTIONS_OF_TWO = (
    Section("overlap", "Pairs that are kept", ("corpus", "selection"), lambda two: two.shared),
    Section("side_by_side", "Side by side", (), compare.side_by_side),
    Section("paired", "Which policy is better", ("evaluation",), compare.policies),
    Section("curves", "Curves", ("selection", "alignment"), compare.curves),
    Section("differences", "Settings that differ", (), compare.settings),
)
Problems = list[tuple[str, str]]


def write_report(runs: Sequence[str | Path], out: str | None = None) -> str:
    """Write the page of a run, or of two side by side.

    Args:
        runs: one run folder or two, local or on object storage.
        out: the file to write; None is ``report.html`` in the run folder, and of two runs ``report-<second>.html`` in
            the folder of the first.

    Returns:
        where it was written.

    Raises:
        UserError: there is no run in a folder, it cannot be read, or the page cannot be written.
    """
    if out == "":
        raise UserError("--out is empty; name a file, or leave it out for report.html in the run folder")
    if len(runs) > 2:
        raise UserError(f"{len(runs)} runs are named, but a report is of one run or of two side by side; name fewer")
    if out is not None:
        _check_out(out)
    views = [read_run(run) for run in runs]
    name = PAGE if len(views) == 1 else f"report-{views[1].root.name}.html"
    # What a link leads to is written, as the shell does; the link stays.
    target = views[0].root / name if out is None else StoragePath(out if is_remote(out) else os.path.realpath(out))
    try:
        page = render(views[0]) if len(views) == 1 else render_two(*views)
    except OSError as error:
        told = " or ".join(str(view.root) for view in views)
        raise UserError(f"the run folder {told} cannot be read ({error}); mend that and try again") from None
    try:
        target.write_bytes(page.encode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write the report to {target} ({error}); name another file with --out") from None
    return out or str(target)


def _check_out(out: str) -> None:
    if odd := lacks_a_slash(out):
        raise UserError(f"--out: {odd}")
    if not is_remote(out) and os.path.exists(out) and not os.path.isfile(out) and not os.path.isdir(out):
        raise UserError(f"--out is {out}, which is a device, a pipe or a socket; name a file")


def render(run: RunView) -> str:
    """The page of a run."""
    problems = _damaged(run)
    found = _scanned(run, problems)
    shown = _built(SECTIONS, [run], (run, found), problems)
    return _page(
        "page.html",
        run=run,
        stage_notes=[(stage.name, note) for stage in run.configured for note in _notes(stage.manifest)],
        problems=problems,
        sections=shown,
        state=words.state(run),
        **_opening(run, found, problems),
    )


def render_two(first: RunView, second: RunView) -> str:
    """The page of two runs side by side."""
    runs, shared = (first, second), None
    problems = _damaged(first) + _damaged(second)
    scans = _scanned(first, problems), _scanned(second, problems)
    if None not in scans:  # else it was said what is missing
        shared = compare.overlap(runs)
    two = compare.Two(runs, scans, shared)
    shown = _built(SECTIONS_OF_TWO, runs, (two,), problems)
    return _page("compare.html", runs=runs, headline=compare.headline(two), problems=problems, sections=shown)


def _page(template: str, **values: Any) -> str:
    page = _environment().get_template(template).render(**values, **_own_files())
    return re.sub("[\ud800-\udfff]", "\ufffd", page)  # half characters, which UTF-8 does not take


def _damaged(run: RunView) -> Problems:
    return [(stage.name, stage.reason) for stage in run.configured if stage.status == "damaged"]


def _scanned(run: RunView, problems: Problems) -> Scan | None:
    """The pass over the pairs, where there are any to go over."""
    try:
        tables = PairTables.of(run)
        return None if tables is None else scan(tables, sections.cut_of(run))
    except UnreadableError as error:
        problems.append(("pairs", f"{error}; without it there are no figures of single pairs"))
    except ODD:
        problems.append(("pairs", "the manifests of corpus, scores and selection do not fit their tables"))
    return None


def _built(
    wanted: Sequence[Section], runs: Sequence[RunView], values: tuple[Any, ...], problems: Problems
) -> list[tuple[str, str, str]]:
    """(name, title, HTML) of the sections that have something to show."""
    macros: Any = _environment().get_template("sections.html").module
    shown = []
    for section in wanted:
        try:
            data = section.build(*values)
            if data is not None:
                shown.append((section.name, section.title, getattr(macros, section.name)(data)))
        except ODD as error:
            problems.append((section.name, _told(runs, section, error)))
    return shown


def _opening(run: RunView, found: Scan | None, problems: Problems) -> dict[str, Any]:
    """Headline, large figures and sentences."""
    try:
        area = sections.auroc(found)
        return {
            "headline": words.headline(run),
            "figures": sections.figures_of(run, found),
            "asked": words.asked(run),
            "came_out": words.came_out(run, area[0] if area else None),
        }
    except ODD:
        told = "the manifests hold figures that are none of pdray's; pdray show --json prints them"
        problems.append(("summary", told))
        return {"headline": "This run cannot be summed up.", "figures": [], "asked": [], "came_out": []}


def _told(runs: Sequence[RunView], section: Section, error: Exception) -> str:
    if isinstance(error, UnreadableError):
        return str(error)
    folders = [run[name].folder for run in runs for name in section.reads or tuple(run.stages)]
    where = ", ".join(f"{folder.name}/manifest.json" for folder in folders if folder is not None)
    return f"left out, because {where} holds figures that are none of pdray's ({type(error).__name__}: {error})"


def _notes(manifest: dict[str, Any]) -> list[str]:
    notes = manifest.get("notes", [])
    return [str(note) for note in notes] if isinstance(notes, list) else []


@cache
def _own_files() -> dict[str, str]:
    """Style and script for inside the page, and the digest that lets this script run and no other."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": style, "script": script, "script_digest": digest}


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": words.number, "percent": words.percent}
    return environment
