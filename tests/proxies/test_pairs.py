"""Which pairs are used: by hashes alone, whatever the shards, the order and the bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies import pairs as module
from pdray.proxies.pairs import (
    Ask,
    AspectPairs,
    candidates,
    choose_pairs,
    first_bound,
    of_all_aspects,
    seen_shares,
)
from pdray.stages import Upstream
from tests.proxies.cases import ASPECTS, make_rows, write_corpus


def look_locally(upstream: Upstream, seed: int = 0, asked: list[dict[str, Ask]] | None = None) -> Any:
    corpus = upstream.shards("corpus")

    def look(asks: dict[str, Ask]) -> Iterator[pa.Table]:
        if asked is not None:
            asked.append(asks)
        return (candidates(corpus, shard, asks, seed) for shard in range(corpus.num_shards))

    return look


def choose(upstream: Upstream, seed: int = 0, **changes: Any) -> list[AspectPairs]:
    assert upstream.corpus is not None
    proxies = ProxiesConfig(base_model="x", **changes)
    return choose_pairs(look_locally(upstream, seed), upstream.corpus.aspect_pairs, proxies)


def ids(table: pa.Table) -> list[str]:
    found: list[str] = table["pair_id"].to_pylist()
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    return write_corpus(tmp_path_factory.mktemp("corpus"), make_rows(400, prompts=60), num_shards=4)


def test_held_out_prompts_are_never_trained_on(corpus: Upstream) -> None:
    prompt_of = {row["pair_id"]: row["prompt"] for row in make_rows(400, prompts=60)}
    for one in choose(corpus):
        assert len(one.held_out) == 20  # a tenth of 200
        trained, unseen = ({prompt_of[name] for name in ids(table)} for table in (one.train, one.held_out))
        assert len(unseen) > 1
        assert not trained & unseen
        # every other pair is used, but for the rest of the last held-out prompt
        assert 180 - max(map(list(prompt_of.values()).count, unseen)) <= len(one.train) <= 180


def test_the_pairs_of_all_aspects_together(corpus: Upstream) -> None:
    chosen = choose(corpus)
    one = of_all_aspects(chosen, 1000)
    assert (one.aspect, one.total) == ("unified", 400)
    assert sorted(ids(one.held_out)) == sorted(name for part in chosen for name in ids(part.held_out))
    prompt_of = {row["pair_id"]: row["prompt"] for row in make_rows(400, prompts=60)}
    unseen = {prompt_of[name] for name in ids(one.held_out)}
    trained = {name for part in chosen for name in ids(part.train)}
    assert set(ids(one.train)) == {name for name in trained if prompt_of[name] not in unseen}
    hashes = one.train["pair_hash"].to_pylist()
    assert hashes == sorted(hashes)
    assert ids(of_all_aspects(chosen, 50).train) == ids(one.train)[:50]
    alone, both = seen_shares(chosen), seen_shares([*chosen, one])
    assert (both[:-1], len(both)) == (alone, 3)


def test_the_choice_does_not_depend_on_shards_or_on_the_order_of_rows(tmp_path: Path, corpus: Upstream) -> None:
    other = write_corpus(tmp_path, make_rows(400, prompts=60)[::-1], num_shards=7)
    for one, again in zip(choose(corpus, share=0.5), choose(other, share=0.5), strict=True):
        assert (ids(one.train), ids(one.held_out)) == (ids(again.train), ids(again.held_out))
    assert ids(choose(corpus, seed=1)[0].train) != ids(choose(corpus)[0].train)


def test_share_and_caps(corpus: Upstream) -> None:
    assert [len(one.train) for one in choose(corpus, share=0.5)] == [90, 90]
    assert [len(one.train) for one in choose(corpus, max_pairs_per_aspect=30)] == [30, 30]
    capped = choose(corpus, max_held_out_pairs=5)
    assert [len(one.held_out) for one in capped] == [5, 5]
    assert ids(choose(corpus, max_pairs_per_aspect=30)[0].train) == ids(choose(corpus)[0].train)[:30]
    assert ids(capped[0].held_out) == ids(choose(corpus)[0].held_out)[:5]


def test_bounds_change_what_is_looked_at_and_not_what_is_found(
    corpus: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = choose(corpus, max_pairs_per_aspect=20)
    monkeypatch.setattr(module, "CERTAIN", 0)
    monkeypatch.setattr(module, "SLACK", 0.2)  # so low that it has to be doubled
    asked: list[dict[str, Ask]] = []
    assert corpus.corpus is not None
    proxies = ProxiesConfig(base_model="x", max_pairs_per_aspect=20)
    bounded = choose_pairs(look_locally(corpus, asked=asked), corpus.corpus.aspect_pairs, proxies)
    assert len(asked) > 2
    for one, again in zip(whole, bounded, strict=True):
        assert (ids(one.train), ids(one.held_out)) == (ids(again.train), ids(again.held_out))


def test_a_shard_returns_no_more_than_is_asked_for(corpus: Upstream) -> None:
    shards = corpus.shards("corpus")
    ask = {ASPECTS[1]: Ask("pair_hash", module.HASHES, 0, 3)}
    assert [len(candidates(shards, shard, ask, 0)) for shard in range(4)] == [3] * 4
    half = {ASPECTS[1]: Ask("pair_hash", module.HASHES // 2, 0, 1000)}
    assert 70 < sum(len(candidates(shards, shard, half, 0)) for shard in range(4)) < 130
    assert first_bound(1_000_000, 20_000) == int(module.HASHES * 0.03)


def test_shares_of_pairs_with_known_prompts() -> None:
    def aspect(name: str, train: list[int], held_out: list[int]) -> AspectPairs:
        tables = [pa.table({"prompt_hash": pa.array(one, pa.uint64())}) for one in (train, held_out)]
        return AspectPairs(name, 9, *tables)

    chosen = [aspect("a", [1, 1, 2], [3]), aspect("b", [2, 4], [3]), aspect("c", [1], [])]
    assert module.seen_shares(chosen) == pytest.approx([(1 + 4 + 9) / 18, (1 + 8 / 3) / 18, 16 / 3 / 18])
    assert module.seen_shares(chosen[:1]) == [0.0]


def test_held_out_pairs_count_as_the_few_that_they_are_in_a_corpus_beyond_the_caps() -> None:
    """All aspects hold the same prompts out, so these are always known: a tenth of what is used, not of all pairs."""
    held_out = pa.table({"prompt_hash": pa.array(range(10), pa.uint64())})
    new = [pa.table({"prompt_hash": pa.array(range(start, start + 90), pa.uint64())}) for start in (100, 200)]
    chosen = [AspectPairs(name, 100_000, train, held_out) for name, train in zip("ab", new, strict=True)]
    assert module.seen_shares(chosen) == pytest.approx([10 / 100_000] * 2)


def test_messages_are_prompts_too(tmp_path: Path) -> None:
    rows = [
        {
            **row,
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in make_rows(400, prompts=60)
    ]
    (one, _) = choose(write_corpus(tmp_path, rows, num_shards=2))
    prompts = {row["pair_id"]: row["prompt"][0]["content"] for row in rows}
    assert not {prompts[name] for name in ids(one.train)} & {prompts[name] for name in ids(one.held_out)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (make_rows(6, prompts=30), r"'Kind Words' has 3 pairs, which leaves 3 of 3 prompts to train on and 0 held out"),
        (make_rows(60, prompts=1), r"has 30 pairs, which leaves 0 of 0 prompts to train on and 3 held out"),
    ],
)
def test_too_few_pairs_or_prompts(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(write_corpus(tmp_path, rows))
