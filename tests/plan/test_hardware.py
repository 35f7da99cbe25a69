"""What ``--on`` and this machine come to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdray.errors import UserError
from pdray.plan.hardware import parse_hardware, recognised, this_machine


def test_nodes_of_eight() -> None:
    one, many = parse_hardware("4xh100"), parse_hardware(" 64 x A100-80 ")
    assert (one.nodes, one.gpus, one.cpus, one.host_gib) == (1, 4, 48, 512)
    assert (many.nodes, many.gpus, many.cpus, many.gpus_per_node) == (8, 64, 768, 8)
    assert many.resources == [{"CPU": 96.0, "GPU": 8.0}] * 8


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "--on is '', but has to be a number of GPUs and their kind, as in 8xH100"),
        ("H100", "as in 8xH100"),
        ("8x", "as in 8xH100"),
        ("-8xH100", "as in 8xH100"),
        ("8xV100", "names the GPU 'V100', of which nothing is known here; take H100, H200, A100-80, A100-40, L40S"),
        ("0xH100", "asks for 0 GPUs; give a number from 1 to 100,000"),
        ("9" * 5000 + "xH100", "as in 8xH100"),
        ("8xH100\n8xH100", "as in 8xH100"),
    ],
)
def test_what_is_no_hardware(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        parse_hardware(text)
    assert sentence in str(raised.value)


def test_this_machine_counts_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    plain = this_machine()
    assert (plain.gpu, plain.gpus, plain.cpus, plain.here) == (None, 0, os.cpu_count(), True)
    assert this_machine(num_cpus=1).cpus == 1
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    tool.chmod(0o755)
    found = this_machine()
    assert found.gpu is not None
    assert (found.name, found.gpus, round(found.gpu.gib)) == ("H100", 2, 80)
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert this_machine().gpus == 0


def test_other_kinds_do_not_count() -> None:
    assert recognised(["NVIDIA GeForce RTX 3060, 12288"]) == (None, 0)
    gpu, count = recognised(["NVIDIA L40S, 46068", "Tesla T4, 15360"])
    assert gpu is not None
    assert (gpu.name, count) == ("L40S", 1)
