"""A Hugging Face data set as a Ray Data set; its rows never pass through the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pdray.config import CorpusConfig
from pdray.corpus.lines import ROWS_PER_BLOCK
from pdray.errors import UserError


def open_hub(config: CorpusConfig) -> tuple[Any, pa.Schema]:
    """The data set and its schema.

    Raises:
        UserError: it cannot be loaded.
    """
    import datasets
    import ray.data

    from pdray.runtime import driver_node

    try:
        dataset = datasets.load_dataset(config.hub, config.hub_config, split=config.hub_split)
    except Exception as error:
        # datasets raises many unrelated types here; each means that this name cannot be loaded.
        raise UserError(
            f"corpus.hub {config.hub!r} split {config.hub_split!r} cannot be loaded ({type(error).__name__}: {error}); "
            "check the name, the split and the network, or use corpus.path"
        ) from None
    # Not from_huggingface: it asks the hub for the files of what has been loaded already, and fails without one.
    starts = [{"start": start} for start in range(0, max(len(dataset), 1), ROWS_PER_BLOCK)]
    # Pickled, the data set is the names of its Arrow files, which each task maps into memory; the files are in the
    # cache of this machine alone.
    rows = ray.data.from_items(starts, override_num_blocks=len(starts)).map_batches(
        _read_rows,
        batch_size=1,
        batch_format="pyarrow",
        fn_args=(dataset.with_format("arrow"),),
        num_cpus=0,
        concurrency=os.cpu_count(),
        scheduling_strategy=driver_node(),
        max_retries=3,
    )
    return rows, dataset.features.arrow_schema


def _read_rows(starts: pa.Table, dataset: Any) -> Iterator[pa.Table]:
    for start in starts["start"].to_pylist():
        yield dataset[start : start + ROWS_PER_BLOCK]
