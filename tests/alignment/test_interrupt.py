"""Ctrl-C while Ray Train trains."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

CODE = """
import argparse, pathlib, sys, time
from pdray.alignment.launch import interruptible_trainer
from pdray.cli.ending import exit_code
from pdray.config import ClusterConfig
from pdray.runtime import ray_session

began, storage = sys.argv[1:]

def act(args):
    from ray.train import RunConfig, ScalingConfig

    def train():
        pathlib.Path(began).touch()
        time.sleep(600)

    with ray_session(ClusterConfig(num_cpus=2)):
        interruptible_trainer()(
            train, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=storage)
        ).fit()
    return 0

sys.exit(exit_code(act, argparse.Namespace()))
"""


def test_it_ends_a_training_as_it_ends_everything_else(tmp_path: Path) -> None:
    """Ray Train's own handler ends the process with code 1, and nothing is said."""
    began, said = tmp_path / "began", tmp_path / "said"
    words = [sys.executable, "-c", CODE, str(began), str(tmp_path / "storage")]
    with said.open("w") as file, subprocess.Popen(words, stdout=file, stderr=file) as run:
        try:
            while not began.exists() and run.poll() is None:
                time.sleep(0.2)
            run.send_signal(signal.SIGINT)
            code = run.wait(120)
        finally:
            run.kill()
    assert code == 130, said.read_text()
    assert said.read_text().splitlines()[-1] == "pdray: interrupted; the same command continues where it stopped"
