"""Rows through the steps of the pass: cut into pieces, encoded, scored, counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pdray.scoring.actor import count_non_finite, score_table
from pdray.scoring.encode import PairTokenizer, token_lists
from pdray.scoring.engine import EngineOptions
from pdray.scoring.meter import Meter
from pdray.scoring.pieces import PieceEncoder, cut_pieces, read_piece, rows_per_piece
from pdray.scoring.proxies import Proxy
from pdray.survey import Place, read_places
from tests.scoring.cases import as_messages, make_pairs, write_corpus
from tests.scoring.doubles import HashEngine, TwoHeadEngine
from tests.tiny import tiny_tokenizer

OPTIONS = EngineOptions("transformers", "float32", 32)
PAIRS = make_pairs(100)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rows")
    return {
        "corpus": write_corpus(root / "corpus", PAIRS, num_files=3),
        "bert": tiny_tokenizer(root / "bert", "bert"),
        "llama": tiny_tokenizer(root / "llama", "llama"),
    }


@pytest.mark.parametrize("piece_rows", [1, 10, 37, 1000])
def test_pieces_are_every_row_once(folders: dict[str, Path], piece_rows: int) -> None:
    pieces = cut_pieces(folders["corpus"] / "pairs", piece_rows)
    assert max(piece["rows"] for piece in pieces) <= piece_rows
    ids = [pair_id for piece in pieces for pair_id in read_piece(piece)["pair_id"].to_pylist()]
    assert ids == [pair["pair_id"] for pair in PAIRS]


def test_a_sampled_row_does_not_keep_its_row_group_in_memory(tmp_path: Path) -> None:
    texts = [f"{index:06}" * 1000 for index in range(500)]
    pq.write_table(pa.table({"pair_id": texts, "prompt": texts}), tmp_path / "0.parquet")
    places = [Place(0, texts[row], str(tmp_path / "0.parquet"), row) for row in (499, 3)]
    table = read_places(places, ["prompt"])
    assert table["prompt"].to_pylist() == [texts[499], texts[3]]
    assert table.get_total_buffer_size() < 10 * len(texts[0])


def test_a_piece_carries_no_column_that_scoring_does_not_need(folders: dict[str, Path]) -> None:
    piece = cut_pieces(folders["corpus"] / "pairs", 10)[0]
    assert set(read_piece(piece).column_names) == {"pair_id", "aspect", "conflict", "prompt", "chosen", "rejected"}


@pytest.mark.parametrize(
    ("rows", "batch_size", "num_actors", "expected"),
    [(2000, 64, 2, 125), (300, 64, 2, 64), (10**6, 64, 4, 2048), (10**8, 64, 64, 2048), (5, 64, 2, 64)],
)
def test_pieces_suit_the_corpus(rows: int, batch_size: int, num_actors: int, expected: int) -> None:
    assert rows_per_piece(rows, batch_size, num_actors) == expected


def encode(folders: dict[str, Path], *names: str) -> pa.Table:
    tokenizer = PairTokenizer(tuple(str(folders[name]) for name in names), 32, "end")
    pieces = cut_pieces(folders["corpus"] / "pairs", 50)
    return PieceEncoder(tokenizer)(pa.Table.from_pylist(pieces))


def test_encoding_drops_the_text_and_keeps_the_rest(folders: dict[str, Path]) -> None:
    encoded = encode(folders, "bert", "llama")
    kept = {"pair_id", "aspect", "conflict", "len_chosen", "len_rejected", "truncated"}
    ids = {f"{side}_ids.{index}" for side in ("chosen", "rejected") for index in (0, 1)}
    assert set(encoded.column_names) == kept | ids
    assert encoded["conflict"].to_pylist() == [pair["conflict"] for pair in PAIRS]
    assert encoded["len_chosen"].to_pylist() == [len(pair["chosen"].split()) for pair in PAIRS]
    assert encoded.schema.field("len_chosen").type == pa.int32()


def test_messages_are_read_and_encoded_by_the_chat_template(folders: dict[str, Path], tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", as_messages(PAIRS[:5]))
    chat = tiny_tokenizer(tmp_path / "chat", "llama", chat=True)
    pieces = pa.Table.from_pylist(cut_pieces(corpus / "pairs", 5))
    encoded = PieceEncoder(PairTokenizer((str(chat),), 128, "end"))(pieces)
    assert "conflict" not in encoded.column_names
    # One token more than the words of the response: the one that ends the message.
    assert encoded["len_chosen"].to_pylist() == [len(pair["chosen"].split()) + 1 for pair in PAIRS[:5]]


def test_a_pair_is_truncated_when_either_tokenizer_cuts_it(folders: dict[str, Path]) -> None:
    lengths = [len(p["prompt"].split()) + max(len(p["chosen"].split()), len(p["rejected"].split())) for p in PAIRS]
    assert encode(folders, "bert", "llama")["truncated"].to_pylist() == [length > 30 for length in lengths]
    assert 0 < sum(length > 30 for length in lengths) < 100


def test_chosen_and_rejected_of_a_pair_are_neighbours(folders: dict[str, Path]) -> None:
    encoded = encode(folders, "bert")
    texts = token_lists(encoded, 0)
    assert texts[0::2] == encoded["chosen_ids.0"].to_pylist()
    assert texts[1::2] == encoded["rejected_ids.0"].to_pylist()


def test_rewards_stand_beside_their_pair_and_the_own_aspect_is_null(folders: dict[str, Path]) -> None:
    encoded = encode(folders, "bert", "llama")
    proxies = [
        Proxy("/m/clarity", ("clarity",), 0),
        Proxy("/m/honesty", ("honesty",), 1),
        Proxy("/m/tone", ("tone",), 1),
    ]
    engines = [(proxy, HashEngine(proxy.path, OPTIONS)) for proxy in proxies]
    scored, num_texts, num_tokens = score_table(encoded, engines, ["clarity", "honesty", "tone"])
    assert num_texts == 100 * 2 * 2
    expected_tokens = 0
    for row, pair in zip(range(100), scored.to_pylist(), strict=True):
        assert pair["pair_id"] == PAIRS[row]["pair_id"]
        for proxy, engine in engines:
            aspect = proxy.aspects[0]
            for side in ("chosen", "rejected"):
                ids = encoded[f"{side}_ids.{proxy.tokenizer}"][row].as_py()
                own = aspect == PAIRS[row]["aspect"]
                expected_tokens += 0 if own else len(ids)
                assert pair[f"reward_{side}.{aspect}"] == (None if own else np.float32(engine.reward(ids)))
    assert num_tokens == expected_tokens
    assert scored.schema.field("reward_chosen.tone").type == pa.float32()
    assert not [name for name in scored.column_names if "ids" in name]


def test_one_model_may_score_two_aspects(folders: dict[str, Path]) -> None:
    encoded = encode(folders, "bert")
    model = TwoHeadEngine("/m/shared", OPTIONS)
    engines = [(Proxy("/m/shared", ("clarity", "honesty"), 0), model)]
    scored, num_texts, _ = score_table(encoded, engines, ["clarity", "honesty"])
    assert num_texts == 200
    for row, pair in enumerate(scored.to_pylist()):
        ids = encoded["rejected_ids.0"][row].as_py()
        for label, aspect in enumerate(("clarity", "honesty")):
            expected = None if pair["aspect"] == aspect else np.float32(model.reward(ids, label))
            assert pair[f"reward_rejected.{aspect}"] == expected


def test_nan_and_infinity_count_and_null_does_not() -> None:
    values = pa.array([1.0, None, float("nan"), float("inf"), -float("inf")], pa.float32())
    nulls = pa.array([None] * 5, pa.float32())
    assert count_non_finite(pa.table({"reward_chosen.a": values, "reward_chosen.b": nulls, "x": values})) == 3


def test_rates_rest_on_the_time_between_the_first_and_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 103.0])
    monkeypatch.setattr("pdray.scoring.meter.time.monotonic", lambda: next(clock))
    meter = Meter()
    meter.add(seconds=1.0, pairs=10, texts=40, tokens=400)
    meter.add(seconds=2.0, pairs=10, texts=40, tokens=400)
    assert meter.rates() == {
        "pairs_per_second": 5.0,
        "texts_per_second": 20.0,
        "tokens_per_second": 200.0,
        "scoring_seconds": 4.0,
    }
    assert Meter().rates()["pairs_per_second"] == 0
