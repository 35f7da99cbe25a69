"""Strategies beside the plain form of each, and what each refuses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pdray.config import LogprobsConfig, ProxiesConfig, RunConfig, SelectionConfig
from pdray.errors import UserError
from pdray.selection import strategies
from pdray.selection.stage import STAGE
from pdray.selection.strategy import Columns, Strategy, Table, sort_key
from pdray.stages import Upstream
from tests.selection.cases import by_hand, labels_of, random_case, read, select, write_case
from tests.stages import run_stage

pytestmark = pytest.mark.usefixtures("ray_local")
HEADS = ProxiesConfig(base_model="m")


@pytest.fixture(scope="module")
def case():
    found = random_case(rows=900)
    rng = np.random.default_rng(3)
    found.ratings = rng.integers(1, 6, found.rewards.shape).astype(np.float64)
    found.ratings[rng.random(found.ratings.shape) < 0.01] = np.nan
    found.logps = -rng.exponential(20, (900, 2, 2)).astype(np.float32)
    found.logps[rng.random(found.logps.shape) < 0.01] = np.nan
    found.unified = rng.normal(size=(900, 2)).astype(np.float32)
    found.unified[rng.random(found.unified.shape) < 0.01] = np.nan
    found.losses = rng.exponential(size=900)
    found.losses[rng.random(900) < 0.01] = np.nan
    found.overall = rng.choice(["chosen", "rejected", "equal", None], 900, p=[0.6, 0.2, 0.1, 0.1]).tolist()
    return found


def kept_ids(root: Path) -> list[str]:
    return sorted(read(root, "kept")["pair_id"].to_pylist())


@pytest.mark.parametrize("strategy", strategies.BUILT_IN)
def test_each_keeps_what_its_plain_form_keeps(tmp_path, case, strategy):
    result = select(tmp_path, case, 4, strategy=strategy)
    assert kept_ids(tmp_path) == sorted(pair_id for _, pair_id, _ in by_hand(case, strategy=strategy))
    assert result.rows_out == len(kept_ids(tmp_path)) == result.rows_in - sum(result.dropped.values())


@pytest.mark.parametrize("strategy", ["overall", "mean_rating"])
def test_pairs_that_are_labelled_anew_change_places(tmp_path, case, strategy):
    result = select(tmp_path, case, 3, strategy=strategy, budget=0.1)
    labels = dict(zip(case.ids, labels_of(case, strategy).tolist(), strict=True))
    kept = read(tmp_path, "kept").to_pylist()
    for row in kept:
        sides = ("chosen", "rejected") if labels[row["pair_id"]] > 0 else ("rejected", "chosen")
        assert [row["chosen"], row["rejected"]] == [f"{side} of {row['pair_id']}" for side in sides]
    swapped = [row["pair_id"] for row in kept if labels[row["pair_id"]] < 0]
    assert result.metrics["relabelled"] == len(swapped) > 50
    place = {pair_id: row for row, pair_id in enumerate(case.ids)}
    longer = [np.sign(case.tokens[place[row["pair_id"]]] @ [1, -1]) * labels[row["pair_id"]] > 0 for row in kept]
    assert result.metrics["chosen_longer"]["kept"] == pytest.approx(np.mean(longer))
    as_labelled = [case.conflict[place[row["pair_id"]]] for row in kept if labels[row["pair_id"]] > 0]
    assert result.metrics["conflict"]["kept"] == pytest.approx(np.mean(as_labelled))


def test_an_overall_label_that_says_something_else_is_refused(tmp_path, case):
    strange = replace(case, overall=["response A", *case.overall[1:]])
    with pytest.raises(UserError, match=r"overall of the corpus says 'response A', but .* chosen, rejected or equal"):
        select(tmp_path, strange, 2, strategy="overall")


def test_dfpo_reads_no_labels_that_are_new():
    config = SimpleNamespace(
        selection=SelectionConfig(strategy="mean_rating"), logprobs=None, alignment=SimpleNamespace(loss="dfpo")
    )
    with pytest.raises(UserError, match=r"mean_rating labels pairs anew, but .*dfpo reads the divergence of the old"):
        STAGE.check(cast(RunConfig, config), Upstream())


def test_another_budget_of_a_strategy_with_a_median_reads_what_is_shared(tmp_path, case):
    upstream = write_case(tmp_path, case, 3)
    for name, budget in {"test": 0.3, "tenth": 0.1}.items():
        chosen = SelectionConfig(strategy="pd_mid", budget=budget, rank="none")
        run_stage(STAGE, tmp_path, name, upstream, selection=chosen)
    assert len(list((tmp_path / "shared").iterdir())) == 1
    assert sorted(read(tmp_path, "kept", "tenth")["pair_id"].to_pylist()) == sorted(
        pair_id for _, pair_id, _ in by_hand(case, 0.1, strategy="pd_mid")
    )


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": 0.25, "c": 3.0}])
def test_weights_of_aspects(tmp_path, case, weights):
    result = select(tmp_path, case, 3, weights=weights)
    assert result.output.weights == {"a": 1.0, "b": 1.0, "c": 1.0} | weights
    expected = [pair_id for _, pair_id, _ in by_hand(case, weights=weights)]
    assert kept_ids(tmp_path) == sorted(expected)
    assert sorted(expected) != sorted(pair_id for _, pair_id, _ in by_hand(case))


def test_share_of_longer_chosen_responses(tmp_path, case):
    shares = select(tmp_path, case, 3).metrics["chosen_longer"]
    longer = dict(zip(case.ids, (case.tokens[:, 0] > case.tokens[:, 1]).tolist(), strict=True))
    ids = kept_ids(tmp_path)
    assert shares == {"all": sum(longer.values()) / 900, "kept": sum(longer[pair_id] for pair_id in ids) / len(ids)}


def test_what_the_corpus_does_not_have_is_refused(tmp_path):
    case = random_case(rows=60)
    with pytest.raises(UserError, match=r"selection\.weights names d, but the corpus has the aspects a, b, c"):
        refuse(write_case(tmp_path, case, 2), weights={"d": 2.0})
    refuse(write_case(tmp_path, case, 2), strategy="pd_ratings", weights={"c": 2.0})
    case.conflict = None
    with pytest.raises(UserError, match=r"pd_ratings needs true ratings of every aspect, but .* none of a, b"):
        refuse(write_case(tmp_path / "unrated", case, 2), strategy="pd_ratings")


@pytest.mark.parametrize(
    ("strategy", "logprobs", "cure"),
    [
        ("fusion", None, r"no logprobs section; add one, as in logprobs: {policy: FOLDER, reference: FOLDER}"),
        ("perplexity_gap", None, r"no logprobs section; add one, as in logprobs: {policy: FOLDER}, or choose another"),
        ("implicit_margin", LogprobsConfig(policy="p"), r"logprobs.reference is not set, so that both are one model"),
        ("alignment_potential", LogprobsConfig(policy="p"), ""),
        ("pd", None, ""),
    ],
)
def test_log_probabilities_that_the_run_does_not_have_are_refused_before_anything_runs(strategy, logprobs, cure):
    if not cure:
        refuse(Upstream(), logprobs, strategy=strategy)
        return
    with pytest.raises(UserError, match=rf"selection.strategy {strategy} .*{cure}"):
        refuse(Upstream(), logprobs, strategy=strategy)


def test_raf_needs_a_reward_model_of_all_aspects():
    refuse(Upstream(), proxies=ProxiesConfig(base_model="m", unified=True), strategy="raf")
    with pytest.raises(UserError, match=r"strategy raf reads .* but the run has none; set proxies.unified to true, or"):
        refuse(Upstream(), strategy="raf")
    ready = {"a": "m", "b": "m"}
    with pytest.raises(UserError, match=r"the run has none; add one named unified to proxies.models, or"):
        refuse(Upstream(), proxies=ProxiesConfig(models=ready), strategy="raf")
    refuse(Upstream(), proxies=ProxiesConfig(models=ready | {"unified": "m"}), strategy="raf")


@pytest.mark.parametrize(("strategy", "reads"), [("pd", ()), ("fusion", ("logprobs",))])
def test_only_a_strategy_that_reads_log_probabilities_depends_on_them(strategy, reads):
    config = SimpleNamespace(
        selection=SelectionConfig(strategy=strategy), logprobs=LogprobsConfig(policy="p"), alignment=None
    )
    assert STAGE.reads(cast(RunConfig, config)) == ("corpus", "proxies", "scores", *reads)
    config.logprobs = None
    assert STAGE.reads(cast(RunConfig, config)) == ("corpus", "proxies", "scores")


def refuse(
    upstream: Upstream, logprobs: LogprobsConfig | None = None, proxies: ProxiesConfig | None = None, **config: Any
) -> None:
    """The check that the pipeline makes as soon as the corpus is known."""
    assert STAGE.check is not None
    STAGE.check(
        cast(
            RunConfig,
            SimpleNamespace(
                selection=SelectionConfig(**config), proxies=proxies or HEADS, logprobs=logprobs, alignment=None
            ),
        ),
        upstream,
    )


def test_an_unknown_strategy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"is 'best', but the strategies here are pd, pd_high, .*longest"):
        SelectionConfig(strategy="best")


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Another package with an entry point, as pip would have installed it."""
    site = tmp_path / "site"
    info = site / "other-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = "shortest = other_strategies:SHORTEST\nbroken = other_strategies:NOTHING\nodd = other_strategies:NUMBER\n"
    (info / "entry_points.txt").write_text(f"[pdray.strategies]\n{points}")
    (site / "other_strategies.py").write_text(
        "from pdray.selection.strategy import Strategy\n"
        "SHORTEST = Strategy(lambda table: table.lengths[0].astype(float), 'the shortest chosen responses')\n"
        "NUMBER = 3\n"
    )
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    yield site
    strategies.find.cache_clear()
    sys.modules.pop("other_strategies", None)


def test_a_strategy_of_another_package(plugin, tmp_path, case):
    assert strategies.names()[-3:] == ["broken", "odd", "shortest"]
    assert SelectionConfig(strategy="shortest").strategy == "shortest"
    lengths = np.array([[3, 1, 2], [9, 9, 9]])
    table = Table(np.array([0.0, np.nan, 1.0]), 0, cast(Columns, SimpleNamespace(lengths=lambda: lengths)))
    np.testing.assert_array_equal(sort_key(strategies.find("shortest"), table), [3.0, np.nan, 2.0])
    for name, reason in {"broken": "NOTHING", "odd": "leads to int, not to a Strategy"}.items():
        with pytest.raises(UserError, match=f"selection.strategy {name} does not load: .*{reason}"):
            select(tmp_path / name, case, 2, strategy=name)


def test_another_version_of_a_plugin_is_another_selection(plugin):
    def decides(strategy: str) -> object:
        config = SimpleNamespace(selection=SelectionConfig(strategy=strategy), seed=0)
        return STAGE.settings(cast(RunConfig, config)).get("package")

    assert (decides("pd"), decides("shortest")) == (None, "other 1.0")


@pytest.mark.parametrize("keys", [0.5, [1.0, 2.0], ["a", "b", "c"], [[1.0], [2.0], [3.0]], [True, False, True]])
def test_keys_that_are_no_number_for_each_pair_are_refused(keys):
    odd = Strategy(lambda table: np.array(keys), "odd keys")
    with pytest.raises(UserError, match=r"keeps odd keys gives keys of shape .* a number for each is needed"):
        sort_key(odd, Table(np.zeros(3), 0, cast(Columns, None)))
