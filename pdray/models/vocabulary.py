"""Whether a model folder holds a tokenizer, and whether the model has an embedding for each of its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.files import read_object
from pdray.models.place import on_this_node
from pdray.models.weights import Shapes, read_shapes

CURE = "copy the tokenizer files that the model was trained with into the folder"
# Any of these sets of files is a tokenizer; without one, Transformers makes up one that knows special tokens only.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("spm.model",),
    ("tekken.json",),
)
# Last parts of the names that Transformers' models give to the embedding of tokens.
EMBEDDINGS = (
    "embed_tokens.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embedding.weight",
    "shared.weight",
)


def check_vocabulary(name: str, folder: str, config: dict[str, Any], shapes: Shapes) -> None:
    """Refuse a folder without a tokenizer, or with one that has more tokens than the model has embeddings.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.
        config: its config.json.
        shapes: of its weights.

    Raises:
        UserError: with the cure.
    """
    largest = largest_token(name, folder)
    rows = embedding_rows(config, shapes)
    if largest is not None and rows is not None:
        require_embeddings(name, largest, rows)


def require_embeddings(name: str, largest: int, rows: int) -> None:
    """Refuse a tokenizer whose largest token id is beyond the ``rows`` of the embedding.

    Raises:
        UserError: with the cure.
    """
    if largest >= rows:
        raise UserError(
            f"{name}, whose tokenizer has a token {largest}, but the model has embeddings for the tokens 0 to "
            f"{rows - 1} only; {CURE}"
        )


def check_same_vocabulary(name: str, folder: str, other_name: str, other: str) -> None:
    """Refuse two models of which one would read the other's token ids as other tokens; added tokens may differ.

    Args:
        name: how messages call the folder.
        folder: the model that reads token ids.
        other_name: how messages call the other.
        other: the model whose tokenizer makes them.

    Raises:
        UserError: their vocabularies differ, or the model has no embedding for a token; with the cure.
    """
    same = "name two models of one family, or copy the tokenizer of the other into it if they number tokens alike"
    folder, other = on_this_node(folder), on_this_node(other)
    if _vocabulary(name, Path(folder)) != _vocabulary(other_name, Path(other)):
        raise UserError(f"{name}, whose vocabulary is not that of {other_name}, which makes its tokens; {same}")
    largest = largest_token(other_name, other)
    rows = embedding_rows(read_object(name, Path(folder) / "config.json"), read_shapes(name, folder))
    if largest is not None and rows is not None and largest >= rows:
        raise UserError(
            f"{name}, which has embeddings for the tokens 0 to {rows - 1} only, but the tokenizer of {other_name} has "
            f"a token {largest}; {same}"
        )


def _vocabulary(name: str, folder: Path) -> Any:
    """What tells a tokenizer's token ids; to compare."""
    file = next((files[0] for files in VOCABULARIES if all((folder / one).is_file() for one in files)), None)
    if file is None:
        return None
    try:
        content = (folder / file).read_bytes()
        return file, json.loads(content)["model"]["vocab"] if file == "tokenizer.json" else content
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise UserError(f"{name}, whose {file} is damaged: no tokenizer can be read from it; {CURE}") from None


def embedding_rows(config: dict[str, Any], shapes: Shapes) -> int | None:
    """Tokens that the model has an embedding for: from the weights, else from config.json; None where neither says."""
    rows = [shape[0] for tensor, shape in shapes.items() if _is_embedding(tensor) and len(shape) == 2]
    text_config = config.get("text_config", config)
    size = text_config.get("vocab_size") if isinstance(text_config, dict) else None
    return max(rows) if rows else size if isinstance(size, int) else None


def _is_embedding(tensor: str) -> bool:
    return tensor.endswith(tuple(f".{ending}" for ending in EMBEDDINGS)) or tensor in EMBEDDINGS


def largest_token(name: str, folder: str) -> int | None:
    """The largest token id of a folder's tokenizer, added tokens included; None where no readable file tells it.

    Raises:
        UserError: there is no tokenizer, or a file of it is damaged.
    """
    root = Path(folder)
    present = [files for files in VOCABULARIES if all((root / file).is_file() for file in files)]
    if not present:
        raise UserError(
            f"{name}, which holds no tokenizer (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a "
            f"SentencePiece model), so that every word would be unknown; {CURE}"
        )
    main = present[0][0]
    sources = [main, *(file for file in ADDED if (root / file).is_file())]
    ids = {file: _read_ids(name, root / file) for file in sources if file in READERS}
    if ids.get(main) == []:
        raise UserError(f"{name}, whose {main} holds no token; {CURE}")
    return max((max(one) for one in ids.values() if one), default=None)


def _read_ids(name: str, path: Path) -> list[int]:
    try:
        return [int(token) for token in READERS[path.name](path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UserError(f"{name}, whose {path.name} is damaged: no tokenizer can be read from it; {CURE}") from None


def _tokenizer_json(text: str) -> Iterable[int]:
    content = json.loads(text)
    vocabulary = content["model"]["vocab"]
    # A Unigram model lists its pieces, the others map them to ids.
    known = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return [*known, *(token["id"] for token in content["added_tokens"])] if known else []


def _vocab_txt(text: str) -> Iterable[int]:
    return range(len(text.rstrip("\n").split("\n"))) if text.strip() else ()


def _mapping(text: str) -> Iterable[int]:
    values: Iterable[int] = json.loads(text).values()
    return values


def _added(text: str) -> Iterable[int]:
    decoder: dict[str, Any] = json.loads(text).get("added_tokens_decoder") or {}
    return map(int, decoder)


ADDED = ("added_tokens.json", "tokenizer_config.json")
READERS: dict[str, Callable[[str], Iterable[int]]] = {
    "tokenizer.json": _tokenizer_json,
    "vocab.txt": _vocab_txt,
    "vocab.json": _mapping,
    "added_tokens.json": _mapping,
    "tokenizer_config.json": _added,
}
