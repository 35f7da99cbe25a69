"""Files for clouds, held against what the programs that read them say; nothing is launched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CLOUD = Path(__file__).parents[2] / "cluster" / "cloud"
LAUNCHED = ("aws", "gcp")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLOUD / f"{name}.yaml").read_text())
    return found


def check(config: dict[str, Any]) -> dict[str, Any]:
    """As ``ray up`` does before it asks the cloud: defaults filled in, then Ray's schema and rules."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_the_launcher_file(name: str) -> None:
    prepared = check(read(name))
    types = prepared["available_node_types"]
    assert {kind: (one["min_workers"], one["max_workers"]) for kind, one in types.items() if kind != "head"} == {
        "cpu": (0, 4),
        "gpu": (0, 2),
    }
    assert prepared["max_workers"] == 6
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] == 8


@pytest.mark.parametrize(
    "change",
    [
        {"maximum_workers": 3},
        {"head_node_type": "none"},
        {"docker": {"imagee": "x"}},
        {"upscaling_speed": "fast"},
    ],
)
def test_ray_would_refuse_a_wrong_one(change: dict[str, Any]) -> None:
    import jsonschema

    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        check(read("aws") | change)


@pytest.mark.parametrize("name", LAUNCHED)
def test_launched_nodes_are_spot_and_listen_to_no_stranger(name: str) -> None:
    config = read(name)
    for kind in ("cpu", "gpu"):
        node = config["available_node_types"][kind]["node_config"]
        market = node.get("InstanceMarketOptions", {}).get("MarketType")
        assert market == "spot" or node["scheduling"]["provisioningModel"] == "SPOT"
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert config["file_mounts"] == {"/home/ray/.ray": "~/.pdray"}


@pytest.mark.parametrize(("name", "setting"), [("aws", "IamInstanceProfile"), ("gcp", "serviceAccounts")])
def test_the_head_has_an_account_that_may_start_workers_and_the_workers_another(name: str, setting: str) -> None:
    """A role that Ray makes for a head may hand the workers no role of theirs."""
    accounts = {kind: one["node_config"][setting] for kind, one in read(name)["available_node_types"].items()}
    assert "MAY_START_WORKERS" in str(accounts["head"])
    assert accounts["cpu"] == accounts["gpu"] != accounts["head"]


def test_skypilot_takes_the_task() -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="skypilot pins other versions of packages than pdray")
    import jsonschema

    task = read("sky")
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())


@pytest.mark.parametrize("part", ["setup", "run"])
def test_the_tasks_scripts_are_well_formed(part: str) -> None:
    assert subprocess.run(["bash", "-n"], input=read("sky")[part], text=True).returncode == 0


def test_the_task_ends_its_own_ray_alone(tmp_path: Path) -> None:
    """SkyPilot's own Ray runs beside it, and ``ray stop`` ends all of a machine."""
    programs = {
        "ray": """echo "ray $*" >> calls
            case "$*" in *--block*) trap 'echo ended >> calls; exit' TERM; while :; do sleep 0.05; done ;; esac""",
        "pdray": "sleep 0.5; exit 3",
    }
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name, body in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = os.environ | {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "0"}
    done = subprocess.run(["bash", "-c", read("sky")["run"]], cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 3
    told = (tmp_path / "calls").read_text().splitlines()
    assert told[-1] == "ended"
    assert [line.split()[1] for line in told[:-1]] in (["start", "health-check"], ["health-check", "start"])


@pytest.mark.parametrize("name", [*LAUNCHED, "sky"])
def test_each_file_names_its_commands_and_its_price(name: str) -> None:
    text = (CLOUD / f"{name}.yaml").read_text()
    assert "pdray plan run.yaml --on 16x" in text and "--price " in text
    assert "Storage: " in text
    if name in LAUNCHED:  # what the head installs is what `ray up` needs at home
        (package,) = [word for word in read(name)["head_setup_commands"][0].split() if "==" in word]
        assert f"#   pip install {package} " in text


@pytest.mark.parametrize("name", [*LAUNCHED, "sky"])
def test_the_hardware_that_the_price_is_asked_for_is_known(name: str) -> None:
    from pdray.plan.hardware import parse_hardware

    (line,) = [line for line in (CLOUD / f"{name}.yaml").read_text().splitlines() if "--on " in line]
    assert parse_hardware(line.split("--on ")[1].split()[0]).gpus == 16
