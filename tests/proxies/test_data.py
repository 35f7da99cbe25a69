"""What is checked while the pairs of an aspect are encoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdray.config import ProxiesConfig
from pdray.errors import UserError
from pdray.proxies.data import AspectJob, encode_aspect
from tests.proxies.cases import write_corpus
from tests.tiny import tiny_bert


def test_a_tokenizer_that_does_not_know_the_words_is_refused(tmp_path: Path) -> None:
    base = tiny_bert(tmp_path / "base")
    tokenizer = base / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"people"', '"peoples"').replace('"time"', '"times"'))
    pairs = write_corpus(tmp_path / "corpus") / "pairs"
    proxies = ProxiesConfig(base_model=str(base))

    def job(limit: float) -> AspectJob:
        return AspectJob("helpful", pairs, tmp_path / "work", proxies, "end", limit, 0)

    with pytest.raises(
        UserError, match=rf"the tokenizer of {base} does not know \d\d\.\d% of the tokens of the corpus"
    ):
        encode_aspect(job(0.1))
    assert encode_aspect(job(0.6)).num_rows == 60
