"""The proxies of a run as the scoring stage needs them, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.positions import check_positions

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
class Proxy:
    """One reward model.

    Attributes:
        path: Hugging Face folder.
        aspects: the aspect of each label of its head.
        tokenizer: index of its tokenizer among the distinct ones of the run.
    """

    path: str
    aspects: tuple[str, ...]
    tokenizer: int


@dataclass(frozen=True)
class ProxySet:
    """The reward models of a run, by first aspect, and the folders of their distinct tokenizers.

    The first tokenizer is that of the first aspect in sorted order; it also counts response lengths.
    """

    proxies: tuple[Proxy, ...]
    tokenizers: tuple[str, ...]

    @property
    def aspects(self) -> list[str]:
        """Every aspect that some proxy scores, sorted."""
        return sorted(aspect for proxy in self.proxies for aspect in proxy.aspects)


def find_proxies(aspects: dict[str, dict[str, Any]], max_tokens: int) -> ProxySet:
    """Read the proxies from the manifest of the proxies stage.

    Args:
        aspects: aspect -> {"path": folder of a sequence classifier with one label, ...}.
        max_tokens: tokens per text that the stage will ask for.

    Raises:
        UserError: a model has other than one label, or fewer positions than ``max_tokens``.
    """
    proxies: list[Proxy] = []
    tokenizers: dict[str, str] = {}
    for aspect in sorted(aspects):
        path = str(aspects[aspect]["path"])
        _check_model(aspect, path, max_tokens)
        identity = tokenizer_identity(path)
        tokenizers.setdefault(identity, path)
        proxies.append(Proxy(path, (aspect,), list(tokenizers).index(identity)))
    return ProxySet(tuple(proxies), tuple(tokenizers.values()))


def _check_model(aspect: str, path: str, max_tokens: int) -> None:
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    labels = len(config.get("id2label") or range(config.get("num_labels", 2)))
    if labels != 1:
        raise UserError(
            f"the proxy for {aspect} at {path} has {labels} labels, but a reward model has one; "
            "set proxies.models to a sequence classifier saved with num_labels=1"
        )
    check_positions("scores.max_tokens", max_tokens, path)


def tokenizer_identity(folder: str) -> str:
    """sha256 over the tokenizer files of a model folder: equal means equal token ids for any text."""
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        path = Path(folder) / name
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()
