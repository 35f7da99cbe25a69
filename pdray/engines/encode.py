"""Texts to the token ids that each of several models reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.engines.apart import ApartEncoder, ApartText, EncodedApart
from pdray.engines.engine import Output
from pdray.engines.response_text import EncodedResponses, ResponseEncoder, ResponseText
from pdray.models.apart import is_apart
from pdray.models.loading import load_tokenizer_files
from pdray.responses import CutRule
from pdray.tokens import EncodedTexts, TextEncoder, TokenRule, check_unknown_tokens

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class TextFacts:
    """What is known of n texts once they are encoded.

    Attributes:
        num_tokens: (n,) int32, tokens of the responses by the first tokenizer: for rewards of the whole responses, for
            log-probabilities those that are added up.
        truncated: (n,) bool, whether any tokenizer cut something off.
    """

    num_tokens: np.ndarray
    truncated: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """Some texts, encoded.

    Attributes:
        ids: for each model, what its engine reads of each text: token ids,
            :class:`~pdray.engines.apart.ApartText` or :class:`~pdray.engines.response_text.ResponseText`; models that
            read alike share one list.
        model_tokens: tokens of all texts, for each model.
        facts: see :class:`TextFacts`.
    """

    ids: list[list[Any]]
    model_tokens: list[int]
    facts: TextFacts

    @property
    def tokens(self) -> int:
        """Tokens of all texts, for all models."""
        return sum(self.model_tokens)


class ModelEncoder:
    """Encodes texts once per distinct tokenizer and way of reading.

    For log-probabilities all models read the token ids of the first one's tokenizer, as in training with a reference.

    Args:
        folders: model folders, local.
        rule: how a text is cut.
        output: what is read of the texts.

    Raises:
        UserError: see :class:`~pdray.tokens.TextEncoder`.
    """

    def __init__(self, folders: list[Path], rule: TokenRule | CutRule, output: Output = "rewards") -> None:
        self._encoders: dict[str, TextEncoder | ApartEncoder | ResponseEncoder] = {}
        self._identities = []
        for folder in folders if output == "rewards" else folders[:1] * len(folders):
            reader = _reader(folder, output)
            identity = f"{reader.__name__} {tokenizer_identity(folder)}"
            self._identities.append(identity)
            if identity not in self._encoders:
                self._encoders[identity] = reader(load_tokenizer_files(str(folder)), rule)

    def encode(self, texts: pa.Table) -> Encoded:
        """Encode the ``prompt`` and ``response`` of a table.

        Raises:
            UserError: see :meth:`~pdray.tokens.TextEncoder.encode`.
        """
        columns: list[list[Any]] = [texts[name].to_pylist() for name in ("prompt", "response")]
        by_identity: dict[str, EncodedTexts | EncodedApart | EncodedResponses] = {
            identity: encoder.encode(*columns) for identity, encoder in self._encoders.items()
        }
        truncated = np.array([one.truncated for one in by_identity.values()], bool).reshape(
            len(by_identity), len(texts)
        )
        first = by_identity[self._identities[0]]
        return Encoded(
            ids=[by_identity[identity].ids for identity in self._identities],
            model_tokens=[by_identity[identity].tokens for identity in self._identities],
            facts=TextFacts(np.array(first.num_tokens, np.int32), np.asarray(truncated.any(axis=0))),
        )

    def check_unknown(self, encoded: Encoded, limit: float, section: str) -> None:
        """Refuse texts that this has encoded where a tokenizer does not know more than a share of the tokens.

        Args:
            encoded: the texts.
            limit: the share.
            section: of the config that sets it, for the message.

        Raises:
            UserError: see :func:`~pdray.tokens.check_unknown_tokens`.
        """
        for identity, ids in dict(zip(self._identities, encoded.ids, strict=True)).items():
            read = [part for one in ids for part in _parts(one)]
            lists = pa.chunked_array([pa.array(read, pa.large_list(pa.int32()))])
            check_unknown_tokens(self._encoders[identity].tokenizer, [lists], limit, section)


def _reader(folder: Path, output: Output) -> type[Any]:
    if output == "logps":
        return ResponseEncoder
    return ApartEncoder if is_apart(folder) else TextEncoder


def _parts(text: Any) -> Iterable[Sequence[int]]:
    if isinstance(text, ResponseText):
        return (text.ids,)
    return text.parts if isinstance(text, ApartText) else (text,)


def tokenizer_identity(folder: str | Path) -> str:
    """sha256 over the tokenizer files of a model folder: equal means equal token ids for any text."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = Path(folder) / name
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
