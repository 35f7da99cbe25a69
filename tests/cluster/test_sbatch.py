"""The script without SLURM: what it refuses, and when it requeues, with programs that stand in for SLURM's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster.slurm import SCRIPT

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
PROGRAMS = {
    "ray": "",
    # Starts the "node" that it is given: the second word after the token's folder tells the head.
    "srun": """
        folder=$(sed 's/.* node \\(\\/tmp\\/pdray-[^ ]*\\) .*/\\1/' <<< "${*//$'\\n'/ }")
        mkdir -p "$folder/ray" && echo 10.0.0.1:6000 > "$folder/ray/ray_current_cluster"
        echo "${*: -4}" >> "$CALLS" && echo "Ray runtime started"
        trap 'echo "srun ended" >> "$CALLS"; exit' TERM
        while :; do sleep 0.05; done""",
    "scontrol": """
        case "$*" in
            "show hostnames"*) printf 'n1\\nn2\\n' ;;
            "show node"*) echo "NodeName=x Arch=y NodeAddr=127.0.0.1 Port=1" ;;
            *) echo "scontrol $*" >> "$CALLS" ;;
        esac""",
    "python": """
        echo "python $*" >> "$CALLS"
        trap 'exit ${ASKED:-143}' TERM
        [ -z "${CODE:-}" ] || exit "$CODE"
        while :; do sleep 0.05; done""",
}


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of two nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in PROGRAMS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    (tmp_path / "calls").touch()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
    return clean | JOB | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}


def start(environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    """The script as SLURM starts it."""
    return subprocess.Popen(
        [str(SCRIPT), *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(job: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and all that was printed."""
    out, _ = job.communicate(timeout=60)
    return job.returncode, out


def calls(environment: dict[str, str]) -> list[str]:
    """What was called so far."""
    return Path(environment["CALLS"]).read_text().splitlines()


def test_the_script_is_well_formed() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", SCRIPT]).returncode == 0


@pytest.mark.parametrize(
    ("words", "variables", "sentence"),
    [
        ([], {}, "no CONFIG"),
        (["--set", "seed=1"], {}, "CONFIG comes before the option --set"),
        (["--budgets"], {}, "--budgets needs a list"),
        (["--budgets", "a,b", "run.yaml"], {}, "'a,b' but must be numbers"),
        (["run.yaml"], {"SLURM_JOB_NODELIST": ""}, "no SLURM job"),
        (["run.yaml"], {"SLURM_ARRAY_TASK_ID": "0"}, "an array needs --budgets"),
        (["--budgets", "0.1,0.3", "run.yaml"], {}, "--budgets is for an array"),
        (["--budgets", "0.1,0.3", "run.yaml"], {"SLURM_ARRAY_TASK_ID": "2"}, "a member 2 but --budgets only 2 numbers"),
    ],
)
def test_refused(programs: dict[str, str], words: list[str], variables: dict[str, str], sentence: str) -> None:
    code, out = end(start(programs | variables, *words))
    assert code == 2
    assert out.startswith("pdray.sbatch: ") and sentence in out and out.count("\n") == 1
    assert calls(programs) == []


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_code_is_forwarded_and_nothing_requeued(programs: dict[str, str], code: int) -> None:
    assert end(start(programs | {"CODE": str(code)}, "run.yaml"))[0] == code
    assert not any("requeue" in call for call in calls(programs))
    assert calls(programs).count("srun ended") == 2


def test_a_member_of_an_array_takes_its_budget_and_waits_for_its_turn(programs: dict[str, str]) -> None:
    member = programs | {"CODE": "0", "SLURM_ARRAY_TASK_ID": "1"}
    assert end(start(member, "--budgets", "0.1,0.3", "run.yaml", "--until", "selection"))[0] == 0
    (driver,) = [call for call in calls(programs) if call.startswith("python")]
    assert driver == (
        "python -m pdray run --wait 86400 run.yaml --until selection --set selection.budget=0.3 "
        "--set cluster.address=10.0.0.1:6000"
    )


@pytest.mark.parametrize(
    ("number", "code", "requeued"),
    [
        (signal.SIGUSR1, 143, True),
        (signal.SIGUSR1, 1, True),
        (signal.SIGUSR1, 2, False),
        (signal.SIGUSR1, 0, False),
        (signal.SIGTERM, 143, False),
    ],
)
def test_a_driver_that_was_asked_to_end(programs: dict[str, str], number: int, code: int, requeued: bool) -> None:
    """One that ends by itself in that moment has nothing to go on with, or would fail again."""
    job = start(programs | {"ASKED": str(code)}, "run.yaml")
    while not any(call.startswith("python") for call in calls(programs)):
        assert job.poll() is None, end(job)
        time.sleep(0.05)
    time.sleep(0.2)  # until the stand-in listens
    job.send_signal(number)
    assert end(job)[0] == code
    assert [call for call in calls(programs) if "requeue" in call] == (["scontrol requeue 7"] if requeued else [])
    assert calls(programs).count("srun ended") == 2


def test_a_node_that_does_not_start(programs: dict[str, str]) -> None:
    srun = Path(programs["PATH"].partition(":")[0]) / "srun"
    srun.write_text('#!/usr/bin/env bash\necho "no such device" && echo tried >> "$CALLS" && exit 1\n')
    code, out = end(start(programs, "run.yaml"))
    assert code == 1
    assert out.splitlines() == [
        "no such device",
        "pdray.sbatch: Ray on node n1 did not start in 3 tries; its last lines stand above",
    ]
    assert calls(programs) == ["tried"] * 3


def with_real_nodes(environment: dict[str, str], ray: str) -> dict[str, str]:
    """A job whose ``srun`` does what it is asked to, with a stand-in for Ray."""
    folder = Path(environment["PATH"].partition(":")[0])
    (folder / "srun").write_text('#!/usr/bin/env bash\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n')
    (folder / "ray").write_text(f"#!/usr/bin/env bash\n{ray}\n")
    return environment | {"SLURM_CPUS_ON_NODE": "2"}


def test_the_node_of_the_script_keeps_the_token_and_the_last_lines_for_the_next_try(programs: dict[str, str]) -> None:
    ray = 'cat "$RAY_AUTH_TOKEN_PATH" >> "$CALLS"; echo >> "$CALLS"; echo busy'
    code, out = end(start(with_real_nodes(programs, ray), "run.yaml"))
    assert code == 1
    assert out.splitlines() == [
        "busy",
        "pdray.sbatch: Ray on node n1 did not start in 3 tries; its last lines stand above",
    ]
    assert len(calls(programs)) == 3 and len(set(calls(programs))) == 1


@pytest.mark.parametrize(
    ("variables", "store"),
    [
        ({"SLURM_MEM_PER_NODE": "1000"}, ["--object-store-memory=300000000"]),
        ({"SLURM_MEM_PER_CPU": "1000"}, ["--object-store-memory=600000000"]),
        ({"SLURM_MEM_PER_NODE": "0"}, []),
        ({}, []),
    ],
)
def test_the_object_store_is_a_part_of_the_memory_of_the_job(
    programs: dict[str, str], variables: dict[str, str], store: list[str]
) -> None:
    end(start(with_real_nodes(programs, 'echo "$*" >> "$CALLS"') | variables, "run.yaml"))
    assert [word for word in calls(programs)[0].split() if word.startswith("--object-store-memory")] == store
