"""A small comparison from corpus to figures: kept runs are used again, a change of size is another folder."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.method import __main__ as command
from benchmarks.method.data import FILES, DataLab, DataSize, judged
from benchmarks.method.lab import Setting
from benchmarks.method.training import swap, with_terms
from benchmarks.method.world import WorldLab, WorldSize
from pdray.selection import strategies
from tests.tiny import WORDS, tiny_encoder

TINY = command.Plan(
    WorldSize(pairs=160, held_out=24, sft_epochs=1, proxy_epochs=1), (0.2,), (0,), (("sft", "pd", "dfpo"),), sweep={}
)
READERS = ("raf", "pd_nl", "overall", "selective", "implicit_margin", "fusion", "alignment_potential")


def test_a_swapped_pair_is_labelled_the_other_way_round() -> None:
    pair = {
        "prompt_ids": [1],
        "chosen_ids": [2],
        "rejected_ids": [3],
        "ref_chosen_logps": 4.0,
        "ref_rejected_logps": 5.0,
    }
    assert swap(pair) == pair | {
        "chosen_ids": [3],
        "rejected_ids": [2],
        "ref_chosen_logps": 5.0,
        "ref_rejected_logps": 4.0,
    }
    assert swap(swap(pair)) == pair


def test_dfpos_terms_are_the_number_of_aspects_and_the_divergence() -> None:
    pairs = with_terms([{}, {}, {}], ["a", "b", "a"], np.array([-1.0, 0.5, 0.0]))
    assert pairs == [{"kappa": 2.0, "divergence": one} for one in (-1.0, 0.5, 0.0)]


def test_every_run_of_the_plan_comes_once_and_the_sweep_last() -> None:
    runs = list(command.Plan().runs())
    assert len({run[:4] for run in runs}) == len(runs) == 3 * 3 * 20 + 3 * len(command.SWEEP)
    assert {run[2] for run in runs} == {"sft", "dfpo", "pd_nl", *strategies.BUILT_IN}
    remedies = {run[2]: (run[4].length_penalty, run[4].temperature) for run in runs[:180]}
    assert remedies.pop("pd_nl") == (0.0, None)
    assert set(remedies.values()) == {(Setting().length_penalty, Setting().temperature)}
    assert {run[:3] for run in runs[180:]} == {(seed, 0.2, "pd") for seed in range(3)}


def test_earlier_rows_stay_but_for_those_that_are_made_again_of_no_fewer_seeds() -> None:
    rows = [{"line": line, "seeds": 2, "of": "earlier"} for line in "abc"]
    new = [{"line": line, "seeds": seeds, "of": "new"} for line, seeds in (("b", 1), ("c", 2), ("d", 1))]
    joined = command.joined(rows, new, ("line",))
    assert [(row["line"], row["of"]) for row in joined] == [
        ("a", "earlier"),
        ("b", "earlier"),
        ("c", "new"),
        ("d", "new"),
    ]


def test_an_overall_label_is_right_more_often_than_not_but_not_always(tmp_path: Path) -> None:
    lab = WorldLab(tmp_path, WorldSize(pairs=800), 0.2, 0)
    assert lab.ratings is not None
    agrees = lab.overall * np.sign(lab.ratings.sum(axis=1))
    assert set(lab.overall) == {-1, 0, 1}
    assert 0.75 < (agrees > 0).sum() / (agrees != 0).sum() < 0.95
    np.testing.assert_array_equal(WorldLab(tmp_path, WorldSize(pairs=800), 0.2, 0).overall, lab.overall)


def test_another_size_or_world_is_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = command.config_of(command.Plan())
    assert command.config_of(command.Plan(WorldSize(pairs=800))) != before
    monkeypatch.setattr(command.world, "CARE", 2.0)
    assert command.config_of(command.Plan()) != before


def write_data(folder: Path) -> Path:
    """Both data sets with few pairs, whose better response says kind and helpful words."""
    folder.mkdir()
    words, rated, labelled = WORDS.split(), [], []
    for row in range(240):
        prompt = f"what {words[row % 40]} is {words[row % 7]}"
        texts = [
            " ".join([good, *words[row % 50 : row % 50 + 6 + 3 * long]]) for long, good in enumerate(("kind", "bad"))
        ]
        ratings = {"score_a.kind": 5.0, "score_b.kind": 1.0, "score_a.true": 1.0 + row % 3, "score_b.true": 2.0}
        rated.append(
            {"pair_id": f"s{row:03}", "prompt": prompt, "response_a": texts[0], "response_b": texts[1]} | ratings
        )
        aspect = ("kind", "true")[row % 2]
        pair = {"pair_id": f"h{row:03}", "prompt": prompt, "chosen": texts[0], "rejected": texts[1], "aspect": aspect}
        labelled.append(pair)
    for name, rows in zip(FILES.values(), (rated, labelled), strict=True):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder


def test_held_out_prompts_are_others_in_every_seed_and_stand_in_no_corpus(tmp_path: Path) -> None:
    data, held_out = write_data(tmp_path / "data"), []
    for name in FILES:
        for seed in range(3):
            lab = DataLab(tmp_path, DataSize(pairs=50), name, seed, data, tmp_path / "none")
            assert not {pair["prompt"] for pair in lab.pairs} & set(lab.prompts)
            assert [pair["pair_id"] for pair in lab.pairs] == sorted(pair["pair_id"] for pair in lab.pairs)
            held_out.append(set(lab.prompts))
            assert (lab.ratings is None) == (name == "hh-rlhf")
    assert not held_out[0] & held_out[1] and not held_out[1] & held_out[2]
    assert len(set.union(*held_out[:3])) == len({f"{row % 40} {row % 7}" for row in range(240)})


def test_held_out_pairs_are_labelled_by_the_mean_of_their_ratings() -> None:
    row = {"pair_id": "x", "prompt": "p", "response_a": "a", "response_b": "b", "score_a.k": 1.0, "score_b.k": 2.0}
    pair = {"pair_id": "x", "prompt": "p", "chosen": "b", "rejected": "a"}
    assert judged(row) == judged(row | {"score_a.t": 3.0, "score_b.t": 2.5}) == pair
    assert judged(row | {"score_a.t": 3.0, "score_b.t": 1.5}) == pair | {"chosen": "a", "rejected": "b"}
    assert judged(row | {"score_a.t": 3.0, "score_b.t": 2.0}) is None


@pytest.mark.slow
def test_a_small_comparison_on_data_and_the_same_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = DataSize(pairs=120, held_out=30, sft_epochs=1, vocabulary=300, max_tokens=48, prompt_tokens=16)
    tiny_data = replace(command.DATA, size=size, seeds=(0,), strategies=(("sft", "pd", "dfpo"),))
    monkeypatch.setattr(command, "DATA_SMALL", tiny_data)
    data, base, out = write_data(tmp_path / "data"), tiny_encoder(tmp_path / "base"), tmp_path / "x.json"
    words = ["x", "--small", "--data", str(data), "--base", str(base), "--folder", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(out)])
    command.main()
    rows = {(row["level"], row["strategy"]): row for row in json.loads(out.read_text())["rows"]}
    assert [rows[name, "pd"]["pairs"] for name in FILES] == [36, 36]
    assert [rows[name, "dfpo"]["pairs"] for name in FILES] == [120, 120]
    assert 0 < rows["SummEval", "dfpo"]["conflict"] < 1 and "conflict" not in rows["hh-rlhf", "dfpo"]
    assert 0 <= rows["SummEval", "pd"]["auroc"] <= 1 and "auroc" not in rows["hh-rlhf", "pd"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    command.main()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")} == kept
    assert {(row["level"], row["strategy"]): row for row in json.loads(out.read_text())["rows"]} == rows


@pytest.mark.slow
def test_a_small_comparison_and_the_same_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SMALL", TINY)
    out = tmp_path / "x.json"
    monkeypatch.setattr(sys, "argv", ["x", "--small", "--folder", str(tmp_path / "runs"), "--out", str(out)])
    command.main()
    rows = {row["strategy"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["sft"]["accuracy"] == [0.5, 0.5, 0.5]
    assert (rows["pd"]["pairs"], rows["dfpo"]["pairs"]) == (48, 160)
    assert rows["dfpo"]["conflict"] == 0.2
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
    (run,) = (tmp_path / "runs").rglob("run-dfpo-.json")
    run.unlink()
    command.main()
    again = {row["strategy"]: row for row in json.loads(out.read_text())["rows"]}
    assert again["dfpo"]["accuracy"] == rows["dfpo"]["accuracy"]
    assert again["pd"] == rows["pd"]
    assert [path for path, time in kept.items() if path.stat().st_mtime_ns != time] == [run]


@pytest.mark.slow
def test_what_strategies_read_is_made_once_and_earlier_rows_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SMALL", replace(TINY, strategies=(("sft", "pd"), READERS)))
    out, runs = tmp_path / "x.json", tmp_path / "runs"
    words = ["x", "--small", "--folder", str(runs), "--out", str(out), "--strategies"]
    monkeypatch.setattr(sys, "argv", [*words, "sft"])
    command.main()
    (sft,) = json.loads(out.read_text())["rows"]
    monkeypatch.setattr(sys, "argv", [*words, *READERS])
    command.main()
    rows = {row["strategy"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows.pop("sft") == sft and tuple(rows) == READERS
    assert rows.pop("overall")["pairs"] > 130
    assert all(row["pairs"] == 48 and 0 <= row["auroc"] <= 1 for row in rows.values())
    assert rows["alignment_potential"]["cpu_seconds"] > rows["implicit_margin"]["cpu_seconds"], "proxies are counted"
    (lab,) = {path.parent for path in runs.rglob("run-raf-.json")}
    losses = np.array(json.loads((lab / "crossfit.json").read_text())["losses"])
    logps = {name: np.array(json.loads((lab / f"logps-{name}.json").read_text())["logps"]) for name in ("sft", "tried")}
    assert losses.shape == (160,) and (losses > 0).all()
    assert logps["sft"].shape == (160, 2) and (logps["sft"] != logps["tried"]).any()
    kept = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json") if not path.name.startswith("run-fusion")}
    (lab / "run-fusion-.json").unlink()
    command.main()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((lab / "run-fusion-.json").read_text())["pairs"] == 48
