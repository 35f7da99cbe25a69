"""What a researcher writes: one reward model per aspect, each over both responses of every pair of the other aspects.

    python -m benchmarks.peers.script --texts T.parquet --pairs P.parquet --models FOLDER --rewards R.npy --out R.json

Imports nothing of pdray. Texts are given as token ids, so tokenising costs it nothing; batches hold texts of like
length. ``FOLDER`` holds a model folder with one label for each aspect, named by its number. A pair is not scored for
its own aspect, unless there is only one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

BATCH = 32


def main() -> None:
    """Load, score, write rewards and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True, help="parquet with chosen, rejected (rows) and aspect")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--rewards", type=Path, required=True, help="gets (texts, aspects) float32, NaN if not scored")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    start = time.perf_counter()
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    texts = pq.read_table(args.texts)["ids"].to_pylist()
    pairs = pq.read_table(args.pairs)
    folders = sorted(args.models.iterdir(), key=lambda folder: int(folder.name))
    own = pairs["aspect"].to_numpy()
    rewards = np.full((len(texts), len(folders)), np.nan, np.float32)
    scored, seconds = 0, 0.0
    for aspect, folder in enumerate(folders):
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
        begun = time.perf_counter()
        mine = (own != aspect) | (len(folders) == 1)
        rows = np.concatenate([pairs[side].to_numpy()[mine] for side in ("chosen", "rejected")])
        rows = rows[np.argsort([len(texts[row]) for row in rows], kind="stable")]
        for first in range(0, len(rows), BATCH):
            chunk = rows[first : first + BATCH]
            longest = max(len(texts[row]) for row in chunk)
            pad = model.config.pad_token_id
            ids = torch.tensor([texts[row] + [pad] * (longest - len(texts[row])) for row in chunk])
            mask = torch.tensor([[1] * len(texts[row]) + [0] * (longest - len(texts[row])) for row in chunk])
            with torch.inference_mode():
                rewards[chunk, aspect] = model(input_ids=ids, attention_mask=mask).logits[:, 0].numpy()
        seconds += time.perf_counter() - begun
        scored += len(rows)
    np.save(args.rewards, rewards)
    figures = {"scoring_seconds": seconds, "text_passes": scored, "seconds": time.perf_counter() - start}
    args.out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
