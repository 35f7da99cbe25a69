"""The page of runs that are finished, unfinished and damaged."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pdray.cli import main
from pdray.report import record, sections
from pdray.report.page import SECTIONS, render, render_two, write_report
from pdray.report.run import read_run
from pdray.report.words import asked
from pdray.storage import StoragePath
from tests.report import cases
from tests.report.cases import edit_manifest, make_run

PLOTS = 15


class Page(HTMLParser):
    """What a test asks of a page: its text, the addresses in it and the parts by their ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.words, self.addresses, self.ids = html, "", [], []
        self.tags: list[str] = []
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent += tag in ("style", "script")
        self.words += " " if tag in ("td", "th", "div") else ""
        self.addresses += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words += data

    def file(self, name: str) -> str:
        """A file that the page offers."""
        (found,) = re.findall(rf'download="{re.escape(name)}" href="data:[^,]*,([^"]*)"', self.html)
        return base64.b64decode(found).decode()


def page_of(run: StoragePath) -> Page:
    return Page(render(read_run(str(run))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    notes = {"proxies": ["the proxy of safe may be no better than chance"]}
    return page_of(make_run(tmp_path_factory.mktemp("run"), notes=notes).run)


def test_a_finished_run_is_told_in_words(whole: Page) -> None:
    for sentence in (
        "120 pairs went in; the 36 on which the other aspects agree most with the label were kept.",
        "Keep 30% of the pairs by the strategy pd, margins scaled by their 0.9 quantile.",
        "The trained policy prefers the better response in 70.0% of 50 held-out pairs (95% interval 60.0% to 80.0%).",
        "Compare its answers with those of a baseline, by <gpt>.",
        "By <gpt> its answers win in 55.0% of 40 comparisons (95% interval 45.0% to 65.0%; 52.0% at equal length).",
        "the proxy of safe may be no better than chance",
    ):
        assert sentence in whole.words
    assert "not finished" not in whole.words
    assert {section.name for section in SECTIONS} <= set(whole.ids)


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ({"strategy": "pd", "budget": 0.005}, "Keep 0.5% of the pairs by the strategy pd"),
        ({"strategy": "all", "budget": 0.3}, "Keep every pair by the strategy all"),
        ({"strategy": "of-a-package", "budget": 0.07}, "Keep 7% of the pairs by the strategy of-a-package"),
    ],
)
def test_the_budget_is_told_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: dict[str, Any], told: str
) -> None:
    monkeypatch.setitem(cases.CONFIG, "selection", cases.CONFIG["selection"] | selection)
    assert any(sentence.startswith(told) for sentence in asked(read_run(str(make_run(tmp_path).run))))


def test_sources_that_were_not_counted_apart_are_said() -> None:
    groups = [(f"source {number}", 2, 1) for number in range(30)]
    assert sections._told_of(groups, 0) == "The largest 24 of 30."
    assert sections._told_of(groups, 5) == "The largest 24 of the first 30 by name; 5 pairs have other ones."
    assert sections._told_of(groups[:24], 0) == ""


def test_every_judge_has_its_row_and_its_points(whole: Page) -> None:
    row = r"<gpt>\s+20\s+4\s+16\s+7\s+3\s+55\.0%\s+45\.0% to 65\.0%\s+52\.0%\s+1\.100"
    assert re.search(row, whole.words)
    assert "to 47 prompts" in whole.words
    points = whole.file("win-rates.csv")
    assert "<gpt>" in points and "<gpt>, length-controlled" in points and "<gpt>, <koala>" in points


def test_every_row_that_is_left_out_is_counted(whole: Page) -> None:
    assert re.search(r"corpus\s+125\s+120\s+4 equal responses \(quarantined\)\s+1 unknown aspect", whole.words)
    assert re.search(r"selection\s+120\s+36\s+84 over the budget", whole.words)


def test_gpu_hours_are_those_that_workers_held(whole: Page) -> None:
    assert re.search(r"scores\s+1,800\.0\s+0\.1\s+20\.5 texts/s\s+2\.00\s+6\.00\s+1\s+2026-01-02 03:04:05", whole.words)


def hours(run: StoragePath, stage: str, settings: dict[str, Any], **metrics: Any) -> float | None:
    """GPU-hours of a stage of half an hour, with other settings and metrics."""
    state = (run / "run.json").read_json()
    for section, changes in settings.items():
        state["config"][section] |= changes
    (run / "run.json").write_json(state)
    edit_manifest(run, stage, lambda manifest: manifest["metrics"].update(metrics))
    found = record.costs(read_run(str(run)), None)
    assert found is not None
    (row,) = [row for row in found["rows"] if row["name"] == stage]
    return row["gpu_hours"]  # type: ignore[no-any-return]


@pytest.mark.usefixtures("no_drawing")
def test_gpus_of_features_are_those_of_the_scores(tmp_path: Path) -> None:
    """How many actors computed them nobody says."""
    run = make_run(tmp_path, 24, until="scores").run
    proxies = {"train": "head", "kind": "separate", "gpus_per_worker": 4.0}
    assert hours(run, "proxies", {"proxies": proxies}, train="head") is None
    assert hours(run, "proxies", {"scores": {"gpus_per_actor": 0.0}}) == 0


@pytest.mark.usefixtures("no_drawing")
def test_models_that_were_trained_side_by_side_do_not_count_as_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, 24, until="scores").run
    proxies = {"gpus_per_worker": 1.0, "num_workers": 2}
    assert hours(run, "proxies", {"proxies": proxies}, kind="shared") == 1
    assert hours(run, "proxies", {}, kind="separate") is None
    assert hours(run, "proxies", {"proxies": {"gpus_per_worker": 0.0}}) == 0
    assert hours(run, "proxies", {"proxies": proxies}, trained=False, train=None, kind=None) == 0  # ready ones


@pytest.mark.usefixtures("no_drawing")
def test_an_actor_that_has_no_shard_is_not_started(tmp_path: Path) -> None:
    run = make_run(tmp_path, 24, shards=2, until="scores").run
    assert hours(run, "scores", {"scores": {"gpus_per_actor": 1.0}}, num_actors=1) == 0.5
    assert hours(run, "scores", {}, num_actors=8) == 1


@pytest.mark.usefixtures("no_drawing")
def test_gpu_hours_are_given_a_price(tmp_path: Path) -> None:
    run = make_run(tmp_path, 24).run
    edit_manifest(run, "scores", lambda manifest: manifest["metrics"].update(num_actors=2))
    words = page_of(run).words
    assert re.search(r"scores\s+1,800\.0\s+0\.0\s+20\.5 texts/s\s+2\.00\s+6\.00\s+1", words)
    assert re.search(r"corpus\s+1,800\.0\s+0\.0\s+0\.00\s+–\s+1", words)
    assert "Estimated dollars: 3.00 an hour, the round figure by which pdray plan counts an H100" in words
    assert hours(run, "scores", {"scores": {"gpus_per_actor": 0.0}}) == 0
    assert "dollars" not in page_of(run).words


def test_every_plot_is_there_as_drawing_and_as_data(whole: Page) -> None:
    names = re.findall(r'download="([^"]+)\.svg"', whole.html)
    assert len(names) == len(set(names)) == PLOTS
    assert whole.html.count('<svg role="img" aria-label="') == PLOTS
    for name in names:
        assert "var(--" not in whole.file(f"{name}.svg")
        assert whole.file(f"{name}.csv").count("\n") > 1
    rows = [line.split(",") for line in whole.file("divergence.csv").splitlines()[1:]]
    assert (sum(int(row[2]) for row in rows), sum(int(row[3]) for row in rows)) == (84, 36)
    assert whole.file("kept-by-aspect.csv").startswith("group,pairs,kept,share\n")


def test_the_model_of_all_aspects_together_stands_behind_them(tmp_path: Path) -> None:
    aspects = ["helpful", "honest", "verbose"]  # the last comes after it in the alphabet
    made, names = make_run(tmp_path, aspects=aspects), [*aspects, "unified"]

    def add(manifest: dict[str, Any]) -> None:
        rows = [[1.0 if a == b else 0.25 * (a + b) for b in range(len(names))] for a in range(len(names))]
        manifest["metrics"]["agreement"] = dict(sorted(zip(names, rows, strict=True)))

    edit_manifest(made.run, "proxies", add)
    table = page_of(made.run).file("agreement.csv").splitlines()
    assert table[0] == ",".join(["aspect", *names])
    assert [line.split(",")[0] for line in table[1:]] == names
    assert [line.split(",")[1 + row] for row, line in enumerate(table[1:])] == ["1.0"] * len(names)


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, aspects=["$x^{$", "plain"]).run)
    assert "$x^{$" in page.file("margins.svg")
    assert "What could not be read" not in page.words


def test_nothing_is_fetched_from_anywhere(whole: Page) -> None:
    assert [one for one in whole.addresses if not one.startswith(("#", "data:"))] == []
    assert "default-src 'none'" in whole.html
    assert len(whole.ids) == len(set(whole.ids))
    assert {"img", "iframe", "object", "base"}.isdisjoint(whole.tags)


def test_texts_and_names_are_no_markup(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7 * 7 }} \u202e&amp;"
    texts = {row: (f"{hostile} {row}", f"{hostile}a", "z" * 100_000) for row in range(24)}
    aspects = ["</svg><script>alert(2)</script>", 'on"load=alert(3) $x_1$', "\u202efine"]
    notes = {"corpus": ["half a character \ud83d <b>", "=1+1"]}
    page = page_of(make_run(tmp_path, 24, texts=texts, aspects=aspects, notes=notes).run)
    assert page.html.count("<script>") == 1 and page.tags.count("script") == 1
    assert {"img", "b"}.isdisjoint(set(page.tags) - {"b"})
    assert hostile in page.words and aspects[1] in page.words
    assert "half a character \ufffd <b>" in page.words
    assert "96,000 more letters are not shown" in page.words
    assert len(page.html) < 2_000_000
    page.html.encode("utf-8")


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(("until", "there"), [("corpus", {"flow"}), ("scores", {"flow", "proxies"})])
def test_a_run_that_is_not_finished(tmp_path: Path, until: str, there: set[str]) -> None:
    page = page_of(make_run(tmp_path, 24, until=until).run)
    assert "24 pairs went in; none is selected yet." in page.words
    assert "This run is not finished" in page.words and "selection is incomplete" in page.words
    assert {section.name for section in SECTIONS} & set(page.ids) == there | {"costs", "settings"}


@pytest.mark.usefixtures("no_drawing")
def test_without_ratings_there_is_no_conflict(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, 24, rated=False).run)
    assert "AUROC" not in page.words and "Conflict against budget" not in page.words
    assert "Preference divergence" in page.words


@pytest.mark.parametrize("log", ["not JSON", "[" * 9999])
@pytest.mark.usefixtures("no_drawing")
def test_what_is_damaged_is_named_and_the_rest_is_shown(tmp_path: Path, log: str) -> None:
    run = make_run(tmp_path, 24).run
    next(tmp_path.glob("evaluation-*/manifest.json")).write_text("{")
    next(tmp_path.glob("alignment-*/training.jsonl")).write_text(log)
    edit_manifest(run, "proxies", lambda manifest: manifest["metrics"].update(aspects={"helpful": {"train_pairs": []}}))
    next(tmp_path.glob("scores-*/texts/shard-00000.parquet")).unlink()
    page = page_of(run)
    assert "evaluation-00000005/manifest.json is not whole" in page.words
    assert "alignment-00000004/training.jsonl cannot be read" in page.words
    assert "proxies-00000001/manifest.json holds figures that are none of pdray's" in page.words
    assert "scores-00000002/texts/shard-00000.parquet cannot be read" in page.words
    assert "24 pairs went in; the 7 on which" in page.words
    assert {"flow", "costs"} <= set(page.ids) and {"proxies", "samples"}.isdisjoint(page.ids)


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("value", [None, "x", -1, [], 1e308, {"a": {}}])
def test_any_json_in_a_manifest(tmp_path: Path, value: object) -> None:
    run = make_run(tmp_path, 24, until="selection").run
    for stage in ("corpus", "proxies", "selection"):
        edit_manifest(run, stage, lambda manifest: manifest.update(metrics=dict.fromkeys(manifest["metrics"], value)))
        edit_manifest(run, stage, lambda manifest: manifest.update(notes=value, packages=value, dropped=value))
    page = page_of(run)
    assert "What could not be read" in page.words


@pytest.mark.usefixtures("no_drawing")
def test_the_page_lies_in_the_run_folder(folder: StoragePath) -> None:
    run = make_run(folder, 24, until="corpus").run
    assert write_report([folder.uri]) == str(run / "report.html")
    assert b"24 pairs went in" in (run / "report.html").read_bytes()


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{empty}"], "no run in {empty}; start one with: pdray run run.yaml"),
        (["{run}", "--out", "{empty}"], "{empty} should be a file, but a folder stands there; move it away"),
        (["{run}", "--out", ""], "--out is empty; name a file"),
        (["{run}", "--out", "{pipe}"], "--out is {pipe}, which is a device, a pipe or a socket; name a file"),
        (["{run}", "--out", "s3:/x"], "--out: s3:/x is a folder named 's3:' here; write s3://… for a URI"),
        (["{run}", "{run}", "{run}"], "3 runs are named, but a report is of one run or of two side by side"),
    ],
)
def test_wrong_words_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {name: str(tmp_path / name) for name in ("run", "empty", "pipe")}
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    make_run(tmp_path / "run", 24, until="corpus")
    assert main(["report", *(word.format(**places) for word in words)]) == 2
    assert told.format(**places) in capsys.readouterr().err
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.usefixtures("no_drawing")
def test_a_page_goes_to_where_a_link_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", 24, until="corpus")
    (tmp_path / "page.html").touch()
    (tmp_path / "link.html").symlink_to("page.html")
    monkeypatch.chdir(tmp_path)
    assert write_report(["run"], "link.html") == "link.html"
    assert (tmp_path / "link.html").is_symlink() and (tmp_path / "page.html").stat().st_size > 1000


def test_it_needs_no_ray_and_no_model_library(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 24, until="corpus")
    code = (
        "import sys, pdray.report.page; print(*{'matplotlib'} & sys.modules.keys())\n"
        "from pdray.cli import main; code = main(['report', sys.argv[1]])\n"
        "print(code, *{'ray', 'torch', 'transformers', 'vllm'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["", f"{tmp_path}/run/report.html", "0"], done.stderr


@pytest.mark.usefixtures("no_drawing")
def test_a_stage_whose_texts_were_read_before_has_no_rate(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", 24)
    for rate, shown in ((12.5, True), (0.0, False)):
        rates = {"texts_per_second": rate, "tokens_per_second": 90 * rate}
        edit_manifest(made.run, "scores", lambda manifest, rates=rates: manifest["metrics"].update(rates))
        words = page_of(made.run).words
        assert ("texts/s" in words, "tokens/s" in words) == (shown, shown)


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", 120), make_run(tmp_path / "other", 60, shards=3)
    path = write_report([str(one.run), str(other.run)])
    assert path == f"{one.run}/report-other.html"
    page = Page(Path(path).read_text(encoding="utf-8"))
    kept = [{made.ids[row] for row in made.kept.nonzero()[0]} for made in (one, other)]
    both = len(kept[0] & kept[1])
    assert 0 < both < 18
    assert f"Both runs keep {both} pairs: {both / 36:.0%} of what the first keeps, {both / 18:.0%} of the" in page.words
    assert re.search(rf"kept by the first alone\s+{36 - both}\s+kept by the second alone\s+{18 - both}\b", page.words)
    assert "All settings are the same." in page.words
    assert re.findall(r'download="([^"]+)\.csv"', page.html) == ["conflict", "loss", "reward-margins"]
    assert [one for one in page.addresses if not one.startswith(("#", "data:"))] == []


@pytest.mark.usefixtures("no_drawing")
def test_settings_that_differ(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one", 24, until="corpus"), make_run(tmp_path / "other", 24)
    state = (other.run / "run.json").read_json()
    state["config"]["selection"]["budget"] = 0.5
    state["config"]["logprobs"] = None
    (other.run / "run.json").write_json(state)
    page = Page(render_two(*(read_run(str(made.run)) for made in (one, other))))
    assert re.search(r"selection\.budget\s+0\.3\s+0\.5", page.words)
    assert re.search(r"logprobs\s+–\s+null", page.words)
    assert "selection.gamma" not in page.words
    assert "Two runs side by side." in page.words and "overlap" not in page.ids
