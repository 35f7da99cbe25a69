"""What one GPU shows in ten minutes: the engine against Transformers and against raw vLLM, DPO steps, memory.

    python -m benchmarks.gpu --out benchmarks/results/gpu-h200.json
    python -m benchmarks.gpu --small --out /tmp/small.json      # the same on two CPU cores, with tiny models

Nothing is downloaded: the texts are the demo's, joined until they are about as long as real ones, and the models are
Llamas of 1.3B parameters with random weights, which cost what trained ones cost and say nothing of quality.

    scores      the stage with two reward models: largest difference and rank correlation beside Transformers in
                float32, texts a second through each model
    raw vllm    one of the two models in one vLLM process, one call, the same distinct texts as token ids
    alignment   DPO of the policy on all pairs under DeepSpeed ZeRO: seconds of a step, first and last loss

``gpu_gib`` is the most that nvidia-smi saw in use, sampled twice a second. A row is written as soon as it is known; a
part that fails leaves a row that says why, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import load_average, write_result
from benchmarks.harness import in_fresh_process

ASPECTS = ("helpfulness", "honesty")
SEED = 0


@dataclass(frozen=True)
class Form:
    """How large everything is.

    Attributes:
        hidden, layers: of reward models and policy.
        pairs: of the corpus, both aspects together.
        joined: texts of the demo that make one.
        tokens: most of a text.
        steps: of DPO.
        gpus: of an actor, and of the one worker of DPO.
        dtype: of all models.
        seconds: after which a part that is not done is ended, so that the others have theirs.
    """

    hidden: int
    layers: int
    pairs: int
    joined: int
    tokens: int
    steps: int
    gpus: int
    dtype: str
    seconds: int


GPU = Form(hidden=2048, layers=20, pairs=4000, joined=8, tokens=512, steps=30, gpus=1, dtype="bfloat16", seconds=270)
SMALL = Form(hidden=128, layers=2, pairs=120, joined=1, tokens=64, steps=2, gpus=0, dtype="float32", seconds=1800)


class GpuMeter(threading.Thread):
    """The largest use of the first GPU's memory while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._mib = 0

    def run(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._ended.wait(0.5):
            done = subprocess.run(query, capture_output=True, text=True, timeout=30)
            used = done.stdout.split()
            self._mib = max(self._mib, int(used[0]) if used and used[0].isdigit() else 0)

    def finish(self) -> float:
        """GiB."""
        self._ended.set()
        self.join()
        return round(self._mib / 1024, 2)


def make_pairs(form: Form) -> list[dict[str, str]]:
    """Pairs of the two aspects, each of several of the demo's joined."""
    from pdray.demo.world import make_pairs as demo_pairs

    made: list[dict[str, str]] = []
    single = demo_pairs(4 * form.pairs * form.joined // 2 + 400)
    for aspect in ASPECTS:
        own = [pair for pair in single if pair["aspect"] == aspect]
        for start in range(0, len(own) - form.joined + 1, form.joined):
            group = own[start : start + form.joined]
            texts = {name: " ".join(pair[name] for pair in group) for name in ("prompt", "chosen", "rejected")}
            made.append(texts | {"aspect": aspect, "pair_id": f"{aspect}-{start:08}"})
    return made[: form.pairs // 2] + made[-form.pairs // 2 :]


def make_models(form: Form, pairs: list[dict[str, str]], folder: Path) -> None:
    """``policy``, and a reward model named after each aspect, with a tokenizer of the pairs' words."""
    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast, set_seed

    from pdray.demo.models import SPECIAL_TOKENS, small_llama, word_tokenizer

    words = [pair[name] for pair in pairs for name in ("prompt", "chosen", "rejected")]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer(words), **SPECIAL_TOKENS)
    config = small_llama(tokenizer, form.hidden, form.layers, positions=form.tokens)
    config.num_attention_heads = config.num_key_value_heads = form.hidden // 64
    config.head_dim, config.intermediate_size = 64, 4 * form.hidden
    config.num_labels = 1
    kinds = {"policy": LlamaForCausalLM} | dict.fromkeys(ASPECTS, LlamaForSequenceClassification)
    for number, (name, kind) in enumerate(kinds.items()):
        set_seed(SEED + number)
        kind(config).to(getattr(torch, form.dtype)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def settings(form: Form, folder: Path) -> dict[str, Any]:
    """The run."""
    return {
        "run": str(folder / "run"),
        "corpus": {"path": str(folder / "pairs.jsonl")},
        "proxies": {"models": {aspect: str(folder / "models" / aspect) for aspect in ASPECTS}},
        "scores": {"max_tokens": form.tokens, "dtype": form.dtype, "gpus_per_actor": form.gpus, "memory_share": 0.6},
        "selection": {"strategy": "all"},
        "alignment": {
            "policy": str(folder / "models" / "policy"),
            "dtype": form.dtype,
            "max_tokens": form.tokens,
            "max_steps": form.steps,
            "pairs_per_step": 32 if form.gpus else 4,
            "batch_size": 8 if form.gpus else 2,
            "held_out": 0,
            "num_workers": 1,
            "gpus_per_worker": form.gpus,
        },
    }


def scores(form: Form, folder: Path) -> dict[str, Any]:
    """The stage, after those before it."""
    import pdray

    found = pdray.Run(settings(form, folder)).run(until="scores")["scores"].metrics
    named = ("engine", "dtype", "texts", "texts_per_second", "max_parity_error", "parity_rank", "scoring_seconds")
    return {name: found[name] for name in named} | {"models": len(ASPECTS)}


def raw_vllm(form: Form, folder: Path) -> dict[str, Any]:
    """One model in a process of its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pdray.config import ScoresConfig
    from pdray.engines.encode import ModelEncoder
    from pdray.tokens import token_rule

    model = folder / "models" / ASPECTS[0]
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    texts = {(pair["prompt"], pair[side]): None for pair in pairs for side in ("chosen", "rejected")}
    table = pa.Table.from_pylist([{"prompt": prompt, "response": response} for prompt, response in texts])
    ids = ModelEncoder([model], token_rule(ScoresConfig(max_tokens=form.tokens))).encode(table).ids[0]
    path = folder / "texts.parquet"
    pq.write_table(pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))}), path)
    words = ["--texts", str(path), "--model", str(model), "--max-tokens", str(form.tokens), "--dtype", form.dtype]
    words += ["--rewards", str(folder / "rewards.npy")]
    found = in_fresh_process("benchmarks.peers.raw_vllm", words, folder / "raw")
    rate = round(len(texts) / found["scoring_seconds"], 3)
    return {"dtype": form.dtype, "texts": len(texts), "texts_per_second": rate, "models": 1} | found


def alignment(form: Form, folder: Path) -> dict[str, Any]:
    """The stage, after the selection."""
    import pdray

    found = pdray.Run(settings(form, folder)).run(until="alignment")["alignment"].metrics
    named = ("engine", "zero_stage", "steps", "seconds_per_step", "first_loss", "last_loss")
    return {name: found[name] for name in named}


PARTS: dict[str, Callable[[Form, Path], dict[str, Any]]] = {
    "scores": scores,
    "raw vllm": raw_vllm,
    "alignment": alignment,
}


def measured(part: str, form: Form, folder: Path) -> dict[str, Any]:
    """A row: what a part found, or why it failed; its seconds in all, and the memory that was seen."""
    load, meter, start = load_average(), GpuMeter() if form.gpus else None, time.monotonic()
    if meter:
        meter.start()
    try:
        words = ["--part", part, "--folder", str(folder), *(["--small"] if form is SMALL else [])]
        found = in_fresh_process("benchmarks.gpu", words, folder / "part", form.seconds)
    except (Exception, SystemExit) as error:  # the other parts are worth having all the same
        found = {"failed": f"{type(error).__name__}: {error}"[-2000:]}
    row = {"part": part, **found, "seconds": round(time.monotonic() - start, 1), "load_average_before": load}
    return row | ({"gpu_gib": meter.finish()} if meter else {})


def main() -> int:
    """Every part in its turn; the result file is whole after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny, on CPU: whether it runs at all")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    form = SMALL if args.small else GPU
    if args.part:
        args.out.write_text(json.dumps(PARTS[args.part](form, args.folder)))
        return 0
    if form.gpus and shutil.which("nvidia-smi") is None:
        print("benchmarks.gpu: no GPU here; --small runs without one", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="pdray-gpu-") as scratch:
        folder = Path(scratch)
        pairs = make_pairs(form)
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        make_models(form, pairs, folder / "models")
        for part in PARTS:
            rows.append(measured(part, form, folder))
            print(json.dumps(rows[-1]), flush=True)
            write_result(args.out, "gpu", asdict(form) | {"models": "random Llamas"}, rows)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
