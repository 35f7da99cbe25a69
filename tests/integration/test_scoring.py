"""The scores stage on real Ray: both engines, parity that fails, a dying actor, a cluster of one CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle

from pdray.config import ScoresConfig
from pdray.errors import UserError
from pdray.scoring import meter, stage
from pdray.scoring.encode import PairTokenizer
from pdray.scoring.engine import EngineOptions
from pdray.scoring.proxies import Proxy, ProxySet
from pdray.scoring.resources import place
from pdray.scoring.stage import _check_output, _notes, make_plan
from pdray.survey import survey_ids
from tests.scoring import doubles
from tests.scoring.cases import ASPECTS, as_messages, make_pairs, score, write_corpus
from tests.scoring.doubles import MortalEngine, SquashedEngine
from tests.tiny import tiny_bert, tiny_llama_reward

pytestmark = pytest.mark.usefixtures("ray_local")
NUM_PAIRS = 200
cloudpickle.register_pickle_by_value(doubles)  # the workers do not see the tests


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder, a decoder and a decoder that pads with its EOS token."""
    root = tmp_path_factory.mktemp("models")
    return {
        "clarity": tiny_bert(root / "bert"),
        "honesty": tiny_llama_reward(root / "llama", seed=1),
        "tone": tiny_llama_reward(root / "eos", seed=2, pad_is_eos=True),
    }


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("berts")
    return {aspect: tiny_bert(root / aspect, seed=seed) for seed, aspect in enumerate(ASPECTS)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", make_pairs(NUM_PAIRS), num_files=3)


def expected_rewards(corpus: Path, models: dict[str, Path]) -> dict[str, np.ndarray]:
    """Rewards of every text from every proxy by a plain loop, sorted by pair_id."""
    import torch
    from transformers import AutoModelForSequenceClassification

    pairs = pq.read_table(corpus / "pairs").sort_by("pair_id")
    rewards = {}
    for aspect, folder in models.items():
        encoded = PairTokenizer((str(folder),), 48, "end")(pairs)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        for side in ("chosen", "rejected"):
            ids = encoded[f"{side}_ids.0"].to_pylist()
            with torch.no_grad():
                values = [model(torch.tensor([one])).logits.item() for one in ids]
            rewards[f"reward_{side}.{aspect}"] = np.array(values, np.float32)
    return rewards


def check_rewards(scores: pa.Table, corpus: Path, models: dict[str, Path]) -> None:
    own = np.array(scores["aspect"].to_pylist())
    for name, expected in expected_rewards(corpus, models).items():
        values = scores[name]
        assert values.type == pa.float32()
        others = own != name.split(".")[1]
        assert np.array_equal(values.is_valid().to_numpy(), others), name
        np.testing.assert_allclose(values.to_numpy()[others], expected[others], atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("engine", "num_actors"), [("transformers", 2), ("vllm", 1)])
def test_every_pair_gets_the_rewards_of_the_other_aspects(
    tmp_path: Path, corpus: Path, models: dict[str, Path], engine: str, num_actors: int
) -> None:
    result, scores = score(tmp_path / "scores", corpus, models, engine=engine, num_actors=num_actors, cpu_cache_gib=0.1)
    pairs = pq.read_table(corpus / "pairs").sort_by("pair_id")
    assert scores["pair_id"] == pairs["pair_id"]
    assert scores["aspect"] == pairs["aspect"]
    assert scores["conflict"] == pairs["conflict"]
    lengths = [len(text.split()) for text in pairs["chosen"].to_pylist()]
    assert scores["len_chosen"].to_pylist() == lengths
    assert scores.schema.field("len_rejected").type == pa.int32()
    assert not {"prompt", "chosen", "rejected", "overall"} & set(scores.column_names)
    check_rewards(scores, corpus, models)
    truncated = sum(scores["truncated"].to_pylist())
    assert 0 < truncated < NUM_PAIRS
    assert (result.rows_in, result.rows_out, result.quarantined) == (NUM_PAIRS, NUM_PAIRS, 0)
    metrics = result.metrics
    assert (metrics["engine"], metrics["rows"], metrics["num_actors"]) == (engine, NUM_PAIRS, num_actors)
    assert (metrics["truncated"], metrics["non_finite"], metrics["parity_rows"]) == (truncated, 0, 6)
    assert 0 <= metrics["max_parity_error"] < 1e-4
    assert metrics["texts_per_second"] == pytest.approx(4 * metrics["pairs_per_second"], rel=0.01)
    assert metrics["tokens_per_second"] > metrics["texts_per_second"]
    assert any(f"{truncated} pairs were cut to scores.max_tokens = 48" in note for note in result.notes)
    parity = pq.read_table(tmp_path / "scores" / "parity.parquet")
    assert parity.num_rows == 6 * 2 * 3
    assert max(parity["error"].to_pylist()) == pytest.approx(metrics["max_parity_error"])


def test_a_block_may_hold_several_pieces(
    tmp_path: Path, corpus: Path, berts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MAX_BLOCKS", 2)
    result, scores = score(tmp_path / "scores", corpus, berts, engine="transformers", num_actors=1)
    assert result.rows_out == NUM_PAIRS
    check_rewards(scores, corpus, berts)


def test_an_engine_that_squashes_rewards_stops_the_stage_before_the_pass(
    tmp_path: Path, corpus: Path, berts: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=r"disagree: the (chosen|rejected) response of pair pair-\d+ gets") as error:
        score(tmp_path / "scores", corpus, berts, load=SquashedEngine, engine="transformers")
    assert "Traceback" not in str(error.value)
    assert not (tmp_path / "scores" / "scores").exists()
    parity = pq.read_table(tmp_path / "scores" / "parity.parquet")
    np.testing.assert_allclose(parity["reward"], 1 / (1 + np.exp(-parity["reference"].to_numpy())), atol=1e-4)


def test_the_answer_does_not_depend_on_files_or_on_the_number_of_actors(tmp_path: Path, berts: dict[str, Path]) -> None:
    pairs = make_pairs(90)
    one = write_corpus(tmp_path / "one", pairs, num_files=1)
    seven = write_corpus(tmp_path / "seven", pairs[::-1], num_files=7)
    options = {"engine": "transformers", "batch_size": 8}
    _, first = score(tmp_path / "a", one, berts, num_actors=1, **options)
    _, second = score(tmp_path / "b", seven, berts, num_actors=2, **options)
    sample_a, sample_b = (
        sorted(set(pq.read_table(tmp_path / name / "parity.parquet")["pair_id"].to_pylist())) for name in "ab"
    )
    assert sample_a == sample_b
    assert first.column_names == second.column_names
    for name in first.column_names:
        if name.startswith("reward"):
            np.testing.assert_allclose(first[name].to_numpy(), second[name].to_numpy(), atol=1e-5)
        else:
            assert first[name].to_pylist() == second[name].to_pylist()


def test_a_dying_actor_costs_no_row_and_doubles_none(tmp_path: Path, berts: dict[str, Path], corpus: Path) -> None:
    result, scores = score(tmp_path / "scores", corpus, berts, load=MortalEngine, engine="transformers", num_actors=1)
    assert (berts["clarity"].parent / "died").exists()
    assert result.rows_out == scores.num_rows == NUM_PAIRS
    check_rewards(scores, corpus, berts)


def test_the_meter_stays_on_the_drivers_node(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    remote = ray.remote
    monkeypatch.setattr(meter.ray, "remote", lambda **options: asked.append(options) or remote(**options))
    meter.stop_meter(meter.start_meter())
    strategy = asked[0]["scheduling_strategy"]
    assert (strategy.node_id, strategy.soft) == (ray.get_runtime_context().get_node_id(), False)


def test_a_lost_meter_costs_the_rates_and_not_the_scores(
    tmp_path: Path, berts: dict[str, Path], corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> Any:
        actor = meter.start_meter()
        ray.kill(actor)
        return actor

    monkeypatch.setattr(stage, "start_meter", lost)
    result, scores = score(tmp_path / "scores", corpus, berts, engine="transformers", num_actors=1)
    assert result.rows_out == scores.num_rows == NUM_PAIRS
    assert {result.metrics[name] for name in meter.Meter().rates()} == {None}
    assert any("the rates are unknown" in note for note in result.notes)


def test_rewards_that_are_no_numbers_are_counted_and_said(tmp_path: Path) -> None:
    write_scores(tmp_path, {"pair_id": "a", "reward_chosen.x": 1.0}, {"pair_id": "b", "reward_chosen.x": float("nan")})
    counts = _check_output(tmp_path, survey_ids(tmp_path))
    assert counts == {"truncated": 2, "non_finite": 1}
    notes = _notes(SimpleNamespace(scores=ScoresConfig()), counts | {"pairs_per_second": 1.0})
    assert notes[1] == "1 rewards are NaN or infinite; selection never keeps such a pair"


@pytest.mark.parametrize("ids", [["a"], ["a", "b", "b"], ["a", "c"], ["b", "b"]])
def test_output_with_other_rows_than_the_corpus_is_not_accepted(tmp_path: Path, ids: list[str]) -> None:
    for name, names in (("corpus", ["a", "b"]), ("scores", ids)):
        (tmp_path / name).mkdir()
        write_scores(tmp_path / name, *({"pair_id": pair_id, "reward_chosen.x": 1.0} for pair_id in names))
    with pytest.raises(RuntimeError, match=r"rows for 2 pairs, or other pair_ids"):
        _check_output(tmp_path / "scores", survey_ids(tmp_path / "corpus"))


def write_scores(folder: Path, *rows: dict[str, Any]) -> None:
    pq.write_table(pa.Table.from_pylist([row | {"truncated": True} for row in rows]), folder / "0.parquet")


def test_messages_without_a_chat_template_are_refused_in_the_users_words(
    tmp_path: Path, berts: dict[str, Path]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", as_messages(make_pairs(12)))
    with pytest.raises(UserError, match=r"^the corpus holds messages but the tokenizer of"):
        score(tmp_path / "scores", corpus, berts, engine="transformers")


def test_words_that_a_tokenizer_does_not_know_stop_the_stage_before_the_pass(
    tmp_path: Path, berts: dict[str, Path]
) -> None:
    pairs = [pair | {"chosen": "zebra " * 30} for pair in make_pairs(12)]
    corpus = write_corpus(tmp_path / "corpus", pairs)
    with pytest.raises(UserError, match=r"^the tokenizer of .* does not know \d\d\.\d% of the tokens of the corpus"):
        score(tmp_path / "refused", corpus, berts, engine="transformers")
    assert not (tmp_path / "refused" / "scores").exists()
    score(tmp_path / "accepted", corpus, berts, engine="transformers", max_unknown_tokens=1)


ONE_CPU = """
import sys
from pathlib import Path
from pdray.config import ClusterConfig
from pdray.runtime import ray_session
from tests.scoring.cases import score

root, models = Path(sys.argv[1]), dict(pair.split("=") for pair in sys.argv[3:])
with ray_session(ClusterConfig(num_cpus=1)):
    result, scores = score(root / "scores", Path(sys.argv[2]), models, engine="transformers")
print(result.metrics["num_actors"], scores.num_rows)
"""


def test_a_cluster_of_one_cpu_does_not_wait_for_itself(tmp_path: Path, corpus: Path, berts: dict[str, Path]) -> None:
    models = [f"{aspect}={path}" for aspect, path in berts.items()]
    command = [sys.executable, "-c", ONE_CPU, str(tmp_path), str(corpus), *models]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-2:] == ["1", str(NUM_PAIRS)]


@pytest.mark.parametrize(("gpus", "share"), [(1, 0.3), (0.5, 0.15), (0, 0.3)])
def test_options_carry_the_config_to_the_engine(gpus: float, share: float) -> None:
    scores = ScoresConfig(gpus_per_actor=gpus, cpus_per_actor=4, dtype="bfloat16", memory_share=0.6, cpu_cache_gib=0.5)
    proxies = ProxySet((Proxy("/a", ("a",), 0), Proxy("/b", ("b",), 0)), ("/a",))
    seen: list[EngineOptions] = []

    def load(path: str, options: EngineOptions) -> doubles.HashEngine:
        seen.append(options)
        return doubles.HashEngine(path, options)

    plan = make_plan(scores, proxies, place([{"CPU": 8, "GPU": 1}], scores), load)
    plan.load_proxy(proxies.proxies[0])
    assert seen == [EngineOptions("vllm", "bfloat16", 512, 4, gpus > 0, pytest.approx(share), 2**29)]
