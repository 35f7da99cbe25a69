"""Text to token ids as an Arrow-to-Arrow step; after it no text travels on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pdray.models.loading import load_tokenizer_files
from pdray.tokens import PairEncoder, check_unknown_tokens

TEXT_COLUMNS = ("prompt", "chosen", "rejected")
KEPT_COLUMNS = ("pair_id", "aspect", "conflict")
IDS = pa.large_list(pa.int32())


@dataclass(frozen=True)
class PairTokenizer:
    """Encodes a table of pairs once per distinct tokenizer; picklable, tokenizers load where it runs.

    Attributes:
        tokenizers: folders of the distinct tokenizers; the first counts response lengths.
        max_tokens: most tokens per text, special tokens included.
        keep_prompt: the side of a long prompt that survives.
    """

    tokenizers: tuple[str, ...]
    max_tokens: int
    keep_prompt: Literal["end", "start"]

    def __call__(self, pairs: pa.Table) -> pa.Table:
        """Replace the text of a table of pairs by token ids.

        Args:
            pairs: ``pair_id``, ``aspect``, ``prompt``, ``chosen``, ``rejected``, optional ``conflict``.

        Returns:
            ``pair_id``, ``aspect``, ``conflict`` as they were; ``len_chosen`` and ``len_rejected`` int32, tokens of
            the whole responses; ``truncated`` bool; ``chosen_ids.<i>`` and ``rejected_ids.<i>`` int32 lists, for
            tokenizer i.
        """
        texts = [pairs[name].to_pylist() for name in TEXT_COLUMNS]
        encoded = [self._encoder(folder).encode(*texts) for folder in self.tokenizers]
        columns: dict[str, Any] = {name: pairs[name] for name in KEPT_COLUMNS if name in pairs.column_names}
        columns["len_chosen"] = pa.array(encoded[0].len_chosen, pa.int32())
        columns["len_rejected"] = pa.array(encoded[0].len_rejected, pa.int32())
        columns["truncated"] = pa.array(
            [any(flags) for flags in zip(*(e.truncated for e in encoded), strict=True)], pa.bool_()
        )
        for index, one in enumerate(encoded):
            columns[f"chosen_ids.{index}"] = pa.array(one.chosen_ids, IDS)
            columns[f"rejected_ids.{index}"] = pa.array(one.rejected_ids, IDS)
        return pa.table(columns)

    def check_unknown(self, encoded: pa.Table, limit: float) -> None:
        """Refuse a table that this has encoded where a tokenizer does not know more than a share of the tokens.

        Raises:
            UserError: see :func:`~pdray.tokens.check_unknown_tokens`.
        """
        for index, folder in enumerate(self.tokenizers):
            columns = [encoded[f"chosen_ids.{index}"], encoded[f"rejected_ids.{index}"]]
            check_unknown_tokens(self._encoder(folder).tokenizer, columns, limit)

    def _encoder(self, folder: str) -> PairEncoder:
        return _load_encoder(folder, self.max_tokens, self.keep_prompt)


@functools.lru_cache(maxsize=16)
def _load_encoder(folder: str, max_tokens: int, keep_prompt: Literal["end", "start"]) -> PairEncoder:
    return PairEncoder(load_tokenizer_files(folder), max_tokens, keep_prompt)


def token_lists(table: pa.Table, tokenizer: int) -> list[list[int]]:
    """Token ids of a table's texts: chosen and rejected of each pair side by side, so that they share a prefix.

    Returns:
        2 * num_rows lists: chosen of row 0, rejected of row 0, chosen of row 1, ...
    """
    chosen = table[f"chosen_ids.{tokenizer}"].to_pylist()
    rejected = table[f"rejected_ids.{tokenizer}"].to_pylist()
    return [ids for pair in zip(chosen, rejected, strict=True) for ids in pair]
