"""Corpora of any files: refused in a sentence, or read without the loss of a row."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pdray.config import load_config
from pdray.errors import UserError
from tests.fuzz.accounting import account
from tests.fuzz.case import TALLY, check, time_limit
from tests.fuzz.corpora import CorpusFile, corpus_files
from tests.fuzz.damage import remove
from tests.fuzz.world import World, cases

SETTINGS = st.lists(
    st.sampled_from(
        [
            "corpus.kind=rated",
            "corpus.kind=rated",
            "corpus.aspects=[helpful, honest]",
            "corpus.partition_columns=[aspect]",
            "corpus.columns.prompt=chosen",
            "corpus.columns.aspect=source",
            "corpus.columns.ratings={helpful: a, honest: b}",
            "corpus.columns.pair_id=prompt",
            "corpus.path=corpus/*",
            "corpus.path=[corpus, corpus/a.jsonl]",
            "corpus.path=.",
            "corpus.path='corpus/**/*.jsonl'",
            "corpus.path='file://HERE/corpus'",
            "run=corpus/run",
        ]
    ),
    max_size=2,
)


@cases(300)
@given(files=st.lists(corpus_files(), min_size=1, max_size=3), overrides=SETTINGS)
def test_corpora(world: World, here: Path, files: list[CorpusFile], overrides: list[str]) -> None:
    for name in ("corpus", "out"):
        remove(here / name)
    (here / "corpus").mkdir()
    for file in files:
        file.write(here / "corpus")
    changes = ["corpus.path=corpus", *(override.replace("HERE", str(here)) for override in overrides)]
    words = [word for change in changes for word in ("--set", change)]
    if check("corpus", "run", str(world.config), "--dry-run", *words).code:
        return
    with time_limit():
        try:
            account(load_config(world.config, changes), here / "out")
            TALLY["corpus rows", "all accounted for"] += 1
        except UserError:
            TALLY["corpus rows", "refused"] += 1
