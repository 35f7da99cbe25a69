"""The demo's comparison without a training: who is trained on what, and what an interrupted demo does again."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pdray.config import AlignmentConfig
from pdray.demo import comparison
from pdray.demo.run import SETTINGS, run_demo
from pdray.errors import UserError

IDS = [f"p{number:02}" for number in range(40)]
KEPT = IDS[5:17]
ALIGNMENT = AlignmentConfig(policy="policy", **SETTINGS["alignment"])


@dataclass(frozen=True)
class Output:
    """What a stage has written."""

    folder: str
    tables: dict[str, pa.Table]

    def table(self, name: str, columns: list[str]) -> pa.Table:
        """Some columns of a table."""
        return self.tables[name].select(columns)


@pytest.fixture
def stages(tmp_path: Path) -> dict[str, Any]:
    """A finished run whose last ten pairs conflict, its inputs in ``inputs``."""
    (tmp_path / "inputs").mkdir()
    with gzip.open(tmp_path / "inputs" / "corpus.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"pair_id": pair_id}) + "\n" for pair_id in IDS)
    pairs = pa.table({"pair_id": IDS[::-1], "conflict": [True] * 10 + [False] * 30})
    return {
        "corpus": Output("run/corpus-1", {"pairs": pairs}),
        "selection": Output("run/selection-1", {"kept": pa.table({"pair_id": KEPT})}),
        "alignment": Output("run/alignment-1", {}),
    }


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that were carried out; the fourth call of ``next`` is interrupted once."""
    names: list[str] = []

    def carry_out(work: object, missing: list[comparison.Job], log: Path) -> Iterator[tuple[str, list[float]]]:
        for job in missing:
            if len(names) == 3:
                names.append("interrupted")
                raise KeyboardInterrupt
            names.append(job.name)
            yield job.name, [1.0, 2.0]

    monkeypatch.setattr(comparison, "carried_out", carry_out)
    return names


def test_the_arms_differ_in_their_pairs_alone() -> None:
    found = {job.name: job for job in comparison.jobs(IDS, set(KEPT), Path("inputs"), ALIGNMENT)}
    assert len(found) == len(comparison.ARMS) * len(comparison.SEEDS)
    for seed in comparison.SEEDS:
        arms = {arm: found[f"{arm} {seed}"] for arm in comparison.ARMS}
        assert [IDS[row] for row in arms["pd"].rows] == KEPT
        assert len(set(arms["random"].rows)) == len(KEPT)
        assert arms["all"].rows == list(range(40))
        assert arms["start"].rows == []
        assert {job.training for job in arms.values()} == {arms["pd"].training}
        assert (arms["pd"].training.steps, arms["pd"].training.seed) == (ALIGNMENT.max_steps, seed)
    assert found["random 0"].rows != found["random 1"].rows


def test_an_interrupted_demo_trains_what_is_missing_and_a_repeated_one_nothing(
    tmp_path: Path, stages: dict[str, Any], carried_out: list[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        comparison.compare(tmp_path, stages, ALIGNMENT)
    found = comparison.compare(tmp_path, stages, ALIGNMENT)
    assert sorted(carried_out) == sorted([*found["rewards"], "interrupted"])
    assert len(found["rewards"]) == 12
    assert (found["pairs"]["pd 0"], found["pairs"]["all 2"], found["pairs"]["start 1"]) == (12, 40, 0)
    assert (found["conflicts"]["pd 0"], found["conflicts"]["all 2"]) == (0, 10)
    assert comparison.compare(tmp_path, stages, ALIGNMENT) == found
    assert len(carried_out) == 13


def test_another_selection_is_another_comparison(
    tmp_path: Path, stages: dict[str, Any], carried_out: list[str]
) -> None:
    carried_out += ["before"] * 4
    comparison.compare(tmp_path, stages, ALIGNMENT)
    other = Output("run/selection-2", stages["selection"].tables)
    found = comparison.compare(tmp_path, stages | {"selection": other}, ALIGNMENT)
    assert found["of"] == ["corpus-1", "selection-2", "alignment-1"]
    assert len(carried_out) == 4 + 2 * 12


@pytest.mark.parametrize("text", ["", "{", "[]", '{"of": ["corpus-1", "selection-1", "alignment-1"]}'])
def test_a_damaged_comparison_is_made_again(
    tmp_path: Path, stages: dict[str, Any], carried_out: list[str], text: str
) -> None:
    carried_out += ["before"] * 4
    (tmp_path / "comparison.json").write_text(text)
    assert len(comparison.compare(tmp_path, stages, ALIGNMENT)["rewards"]) == 12


def test_inputs_of_an_older_demo_are_refused_with_the_cure(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    for model in ("proxy-base", "policy"):
        (inputs / model).mkdir(parents=True)
        (inputs / model / "config.json").write_text("{}")
    (inputs / "corpus.jsonl").write_text("{}\n")
    settings = {
        "run": str(tmp_path),
        "corpus": {"path": str(inputs / "corpus.jsonl")},
        "proxies": {"base_model": str(inputs / "proxy-base")},
        "alignment": {"policy": str(inputs / "policy")},
    }
    (inputs / "run.yaml").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="name another --folder for a new demo"):
        run_demo(str(tmp_path))


def test_a_typing_error_in_a_uri_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--folder: s3:/runs is a folder named 's3:' here"):
        run_demo("s3:/runs", write_only=True)
    assert list(tmp_path.iterdir()) == []
