"""One pass of the frozen backbone over every different text, shared by all aspects and their baselines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHUNK = 512  # texts per file; fixed, so that batches and with them the features do not depend on the cluster
BATCH = 32
CHECKED_TEXTS = 4


@dataclass(frozen=True)
class Features:
    """Where the features are.

    Attributes:
        num_texts: T, different token sequences.
        num_references: texts of all tables together, repeated ones counted.
        files: one .npy of (≤ CHUNK, H) float32 per chunk, in row order.
    """

    num_texts: int
    num_references: int
    files: tuple[str, ...]

    def load(self) -> np.ndarray:
        """(T, H) float32."""
        return np.concatenate([np.load(file) for file in self.files])


def index_texts(tables: list[str], folder: Path) -> Features:
    """Number the different texts of some tables and put the numbers in the place of their token ids.

    Texts are numbered by length and then by content, so that batches hold texts of like length.

    Args:
        tables: parquet files from :func:`pdray.proxies.data.prepare_aspect`, rewritten in place.
        folder: gets ``00000.parquet``, … with the token ids of ``CHUNK`` texts each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loaded = [pq.read_table(path) for path in tables]
    keys = [{name: _keys(table[name]) for name in ("chosen_ids", "rejected_ids")} for table in loaded]
    references = [key for columns in keys for column in columns.values() for key in column]
    texts = sorted(set(references), key=lambda key: (len(key), key))
    number = {key: row for row, key in enumerate(texts)}
    for path, table, columns in zip(tables, loaded, keys, strict=True):
        for name, column in columns.items():
            rows = pa.array([[number[key]] for key in column], pa.list_(pa.int32()))
            table = table.set_column(table.schema.get_field_index(name), name, rows)
        pq.write_table(table, path)
    files = []
    for start in range(0, len(texts), CHUNK):
        ids = [np.frombuffer(key, dtype=np.int32) for key in texts[start : start + CHUNK]]
        chunk = folder / f"{start // CHUNK:05}.parquet"
        pq.write_table(pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))}), chunk)
        files.append(str(chunk.with_suffix(".npy")))
    return Features(len(texts), len(references), tuple(files))


def _keys(column: pa.ChunkedArray) -> list[bytes]:
    lists = column.combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[start:end].tobytes() for start, end in pairwise(offsets)]


class FeatureWriter:
    """A Ray Data actor: holds the backbone and turns files of texts into files of features.

    Args:
        base_model: model folder.
        seed: as in training, so that the check runs on the head that is trained.
        num_threads: CPU threads.
        use_gpu: whether to compute on the GPU that Ray gave this actor.
        counter: progress in texts.
    """

    def __init__(self, base_model: str, seed: int, num_threads: int, use_gpu: bool, counter: Any) -> None:
        import torch

        from pdray.proxies.base import load_reward_model, load_tokenizer

        torch.set_num_threads(num_threads)
        self.tokenizer = load_tokenizer(base_model)
        self.model = load_reward_model(base_model, self.tokenizer, seed).eval().to("cuda" if use_gpu else "cpu")
        self.counter = counter

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """``file``: names of feature files to write; the texts lie beside them.

        Raises:
            UserError: the head of this kind of model does not work on features.
        """
        return {"texts": np.array([self._write(Path(file)) for file in batch["file"]])}

    def _write(self, file: Path) -> int:
        from pdray.proxies.heads import check_features, compute_features

        pad = self.tokenizer.pad_token_id
        texts = pq.read_table(file.with_suffix(".parquet"))["ids"].to_pylist()
        check_features(self.model, texts[:: max(1, len(texts) // CHECKED_TEXTS)][:CHECKED_TEXTS], pad)
        parts = []
        for start in range(0, len(texts), BATCH):
            parts.append(compute_features(self.model, texts[start : start + BATCH], pad))
            self.counter.add(len(parts[-1]))
        np.save(file, np.concatenate(parts))
        return len(texts)


def compute_all(features: Features, writer: dict[str, Any], num_actors: int, resources: dict[str, float]) -> None:
    """Run the backbone over all texts with Ray Data.

    Args:
        features: what :func:`index_texts` returned.
        writer: arguments of :class:`FeatureWriter`.
        num_actors: actors that the cluster holds.
        resources: ``num_cpus`` and ``num_gpus`` of an actor.
    """
    import ray

    chunks = ray.data.from_items([{"file": file} for file in features.files], override_num_blocks=len(features.files))
    written = chunks.map_batches(
        FeatureWriter,
        fn_constructor_kwargs=writer,
        batch_size=1,
        # A pool of fixed size: one that grows by itself stays at one actor while a chunk takes this long.
        compute=ray.data.ActorPoolStrategy(size=min(num_actors, len(features.files))),
        **resources,
    )
    done = sum(row["texts"] for row in written.iter_rows())
    assert done == features.num_texts, (done, features.num_texts)
