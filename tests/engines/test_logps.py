"""Log-probabilities in Transformers beside a sum of log-softmax written by hand; those of vLLM are in integration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pdray.engines import transformers_logps
from pdray.engines.engine import EngineOptions, load_engine, load_reference
from tests.logprobs.cases import by_hand, random_texts
from tests.tiny import tiny_llama_lm, tiny_opt_lm

OPTIONS = EngineOptions("transformers", "float32", 64, output="logps")


@pytest.mark.parametrize("build", [tiny_llama_lm, tiny_opt_lm])
def test_sums_are_those_of_the_softmax_by_hand(tmp_path: Path, build, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, texts = build(tmp_path), random_texts()
    expected = by_hand(folder, texts)
    assert expected.min() < -100
    for engine in (load_engine(str(folder), OPTIONS), load_reference(str(folder), OPTIONS)):
        found = engine.score(texts)
        assert (found.shape, found.dtype) == ((len(texts), 1), np.float32)
        np.testing.assert_allclose(found[:, 0], expected, atol=2e-4)
        assert found[-2, 0] == 0
    monkeypatch.setattr(transformers_logps, "CPU_LOGITS", 128 * 50)  # a text or two at a time
    np.testing.assert_allclose(load_engine(str(folder), OPTIONS).score(texts)[:, 0], expected, atol=2e-4)
    assert load_engine(str(folder), OPTIONS).score([]).shape == (0, 1)
