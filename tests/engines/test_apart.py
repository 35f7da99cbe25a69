"""Prompt and response read apart: what is counted, what is embedded, and that engines agree on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pdray.engines.apart import ApartEncoder, ApartEngine, ApartText
from pdray.engines.encode import ModelEncoder
from pdray.engines.engine import EngineOptions, Rewards, load_engine, load_reference
from pdray.engines.pair_features import COUNTED, blocks, combine, count
from pdray.models.apart import is_apart, read_apart, write_apart
from pdray.models.loading import load_tokenizer_files
from pdray.models.pooling import Pooling
from pdray.proxies.backbone import write_encoder
from pdray.rewards import RewardHead
from pdray.storage import StoragePath
from pdray.tokens import TokenRule
from tests.tiny import WORDS, tiny_encoder, tiny_llama_lm, tiny_roberta, tiny_tokenizer

RULE = TokenRule(16, 8)
PROMPTS = ["what is good ?", "what is good ?", "is it bad or not ?", "what is good ?"]
RESPONSES = ["it is good .", "it is bad", "it is good .", "go"]
TEXTS = pa.table({"prompt": PROMPTS, "response": RESPONSES})


def test_features_are_the_response_its_product_with_the_prompt_their_cosine_and_counts() -> None:
    prompts, responses = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 2.0], [1.0, 0.0]])
    counted = np.arange(2.0 * len(COUNTED)).reshape(2, -1)
    features = combine(prompts, responses, counted)
    assert features.dtype == np.float32
    assert features.shape == (2, sum(width for _, width in blocks(2)))
    np.testing.assert_allclose(features[0, :5], [0, 1, 0, 0.8, 0.8], atol=1e-7)
    np.testing.assert_array_equal(features[1, :5], [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(features[:, 5:], counted)


def test_counts_of_a_response() -> None:
    text = "Is 5 €?\nYes."
    found = dict(zip(COUNTED, count([1, 2, 3, 4], [2, 3, 9, 9, 2, 3], text), strict=True))
    assert found == pytest.approx(
        {
            "log_tokens": np.log(7),
            "tokens_of_prompt": 4 / 6,
            "prompt_covered": 2 / 4,
            "distinct_tokens": 3 / 6,
            "distinct_bigrams": 4 / 5,
            "bigrams_of_prompt": 2 / 5,
            "punctuation": 2 / 12,
            "numbers": 1 / 12,
            "symbols": 1 / 12,
            "capitals": 2 / 12,
            "spaces": 2 / 12,
            "log_lines": np.log(2),
            "log_questions": np.log(2),
            "characters_per_token": 2.0,
            "ends_with_punctuation": 1.0,
        }
    )
    assert count([], [], "") == [0.0] * len(COUNTED)


@pytest.mark.parametrize(("keep", "kept"), [("end", slice(-14, None)), ("start", slice(0, 14))])
def test_each_part_may_fill_max_tokens(tmp_path: Path, keep: Any, kept: slice) -> None:
    tokenizer = load_tokenizer_files(str(tiny_tokenizer(tmp_path)))
    words = WORDS.split()[:19]
    response = words[::-1]
    encoder = ApartEncoder(tokenizer, TokenRule(16, 8, keep))
    encoded = encoder.encode([" ".join(words), "go", "go"], ["good", " ".join(response), ""])
    ids = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in [*words, "go", "good"]}
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    whole = [ids[word] for word in words]
    assert encoded.ids[0].parts == ((start, *whole[kept], end), (start, ids["good"], end))
    assert encoded.ids[1].parts == ((start, ids["go"], end), (start, *whole[::-1][:14], end))
    assert encoded.ids[2].response == (start, end)
    assert encoded.num_tokens == [1, len(words), 0]
    assert encoded.truncated == [True, True, False]
    assert encoded.tokens == 16 + 3 + 3 + 16 + 2  # the prompt of two texts is read once
    assert encoded.ids[1].counted[0] == pytest.approx(np.log1p(len(words)))  # of the whole response


class Embedder:
    """Embeds a text as the sum of its ids and their number; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[list[int]] = []

    def score(self, token_ids: list[list[int]]) -> Rewards:
        self.given += token_ids
        return np.array([[sum(ids), len(ids)] for ids in token_ids], np.float32)


def text(prompt: tuple[int, ...], response: tuple[int, ...]) -> ApartText:
    return ApartText(prompt, response, (0.5,) * len(COUNTED))


def test_every_prompt_and_response_is_embedded_once() -> None:
    embedder = Embedder()
    engine = ApartEngine(embedder, None)
    first = engine.score([text((1,), (5, 6)), text((2,), (5, 6)), text((2,), (7,))])
    assert embedder.given == [[1], [5, 6], [2], [7]]
    second = engine.score([text((2,), (8,)), text((3,), (7,))])  # the prompt that the last call ended with
    assert embedder.given[4:] == [[8], [3], [7]]
    expected = combine(np.array([[2, 1], [3, 1]]), np.array([[8, 1], [7, 1]]), np.full((2, len(COUNTED)), 0.5))
    np.testing.assert_array_equal(second, expected)
    head = RewardHead(np.ones((1, first.shape[1]), np.float32), np.ones(1, np.float32))
    rewards = ApartEngine(Embedder(), head).score([text((1,), (5, 6)), text((2,), (5, 6)), text((2,), (7,))])
    np.testing.assert_allclose(rewards[:, 0], first.sum(1) + 1, rtol=1e-6)


def plain(folder: Path, pooling: Pooling) -> Rewards:
    """Features by a plain loop over Transformers' own model."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    encoded = ModelEncoder([folder], RULE).encode(TEXTS)
    sides: list[list[np.ndarray]] = [[], []]
    for one in encoded.ids[0]:
        for side, ids in zip(sides, one.parts, strict=True):
            with torch.no_grad():
                states = model(torch.tensor([ids])).last_hidden_state[0]
            side.append({"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling].numpy())
    return combine(np.stack(sides[0]), np.stack(sides[1]), np.array([one.counted for one in encoded.ids[0]]))


KINDS = [(tiny_encoder, "mean"), (tiny_encoder, "cls"), (tiny_roberta, "mean"), (tiny_llama_lm, "last")]


@pytest.mark.parametrize(
    ("build", "pooling", "engine"),
    [
        *((*kind, "transformers") for kind in KINDS),
        (tiny_encoder, "mean", "vllm"),
        pytest.param(tiny_llama_lm, "last", "vllm", marks=pytest.mark.slow),
        pytest.param(tiny_encoder, "cls", "vllm", marks=pytest.mark.slow),
        pytest.param(tiny_roberta, "mean", "vllm", marks=pytest.mark.slow),
    ],
)
def test_engines_give_the_features_of_a_plain_loop(tmp_path: Path, build: Any, pooling: Pooling, engine: Any) -> None:
    folder = tmp_path / "encoder"
    base = build(tmp_path / "base")
    assert write_encoder(str(base), 0, StoragePath(str(folder))) == 64
    assert is_apart(folder) and not is_apart(base)
    assert read_apart(folder) == ("last" if build is tiny_llama_lm else "cls", None)
    write_apart(folder, pooling, None)
    options = EngineOptions(engine, "float32", 16, cpu_cache_bytes=2**27)
    texts = ModelEncoder([folder], RULE).encode(TEXTS).ids[0]
    expected = plain(folder, pooling)
    np.testing.assert_allclose(load_engine(str(folder), options).score(texts), expected, atol=1e-5)
    np.testing.assert_allclose(load_reference(str(folder), options).score(texts), expected, atol=1e-5)


def test_a_head_beside_the_encoder_makes_rewards(tmp_path: Path) -> None:
    folder = StoragePath(str(tmp_path / "model"))
    width = sum(one for _, one in blocks(64))
    draw = np.random.default_rng(0)
    head = RewardHead(*(draw.normal(size=shape).astype(np.float32) for shape in ((3, 5), (3,), (5, width), (5,))))
    write_encoder(str(tiny_encoder(tmp_path / "base")), 0, folder, head, ["a", "b", "c"])
    assert (folder / "config.json").read_json()["id2label"] == {"0": "a", "1": "b", "2": "c"}
    texts = ModelEncoder([folder.local], RULE).encode(TEXTS).ids[0]
    for engine in ("transformers", "vllm"):
        rewards = load_engine(folder.uri, EngineOptions(engine, "float32", 16, cpu_cache_bytes=2**27)).score(texts)
        np.testing.assert_allclose(rewards, head.rewards(plain(folder.local, "cls")), atol=1e-4)
