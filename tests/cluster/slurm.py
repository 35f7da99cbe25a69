"""A SLURM of its own: two nodes on this machine, in namespaces that end every process with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "cluster" / "slurm" / "pdray.sbatch"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "unshare", "nsenter", "ip")
NAMESPACES = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
NODES = ("n1", "n2")
URGENT = "urgent"
ADDRESS = "10.9.0.1"
SECONDS = 600.0
# Requeued jobs wait for cred_expire, two minutes by default.
CONF = """\
ClusterName=pdray
SlurmctldHost={host}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=60
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
"""


def missing() -> str | None:
    """Why no SLURM can be started here, None where one can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"no {', '.join(absent)} here; Debian has them in slurm-wlm, munge and iproute2"
    return None if os.geteuid() == 0 else "a SLURM of its own needs root"


def wait_for(what: str, found: Callable[[], object], seconds: float = SECONDS) -> None:
    """Ask until the answer is yes.

    Raises:
        AssertionError: time is up.
    """
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, f"no {what} within {seconds:.0f} s"
        time.sleep(0.05)


class Slurm:
    """Two nodes of two CPUs.

    Args:
        folder: for its state, its logs and those of the jobs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._outer = subprocess.Popen(["unshare", *NAMESPACES, "bash", "-c", "sleep infinity & wait"])
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        outer = psutil.Process(self._outer.pid)
        wait_for("namespaces", lambda: [one for one in outer.children() if one.name() == "bash"], 60)
        self._init = outer.children()[0].pid
        self._inside = os.readlink(f"/proc/{self._init}/ns/pid")
        # Ray finds its own address by a route to the outside, which there has to be.
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "pdray0", "type", "bridge")
        self._ip("addr", "add", f"{ADDRESS}/24", "dev", "pdray0")
        self._ip("link", "set", "pdray0", "up")
        self._ip("route", "add", "default", "via", "10.9.0.254")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        lines = CONF.format(host=os.uname().nodename.partition(".")[0], address=ADDRESS, folder=self.folder)
        for number, name in enumerate(NODES):
            lines += f"NodeName={name} NodeAddr={ADDRESS} Port={16818 + number} CPUs=2 RealMemory=4000 State=UNKNOWN\n"
        lines += "PartitionName=main Nodes=ALL Default=YES PriorityTier=1 State=UP\n"
        lines += f"PartitionName={URGENT} Nodes=ALL PriorityTier=2 State=UP\n"
        (self.folder / "slurm.conf").write_text(lines)
        files = {"key-file": "munge.key", "socket": "munge", "pid-file": "munge.pid", "log-file": "munge.log"}
        files |= {"seed-file": "munge.seed"}
        self._run("munged", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items()))
        self._run("slurmctld")
        for name in NODES:
            self._run("slurmd", "-N", name)
        wait_for("idle nodes", lambda: self._run("sinfo", "-h", "-o", "%T %D") == "idle 2", 60)

    def _ip(self, *words: str) -> None:
        self._run("ip", *words)

    def _run(self, *words: str) -> str:
        command = ["nsenter", f"--target={self._init}", "--net", "--mount", "--pid", *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
        environment |= {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path(), "PYTHONPATH": str(REPO)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, options: list[str], words: list[str]) -> str:
        """``sbatch`` of the script.

        Returns:
            the job's id.
        """
        output = f"--output={self.folder}/job-%A-%a.log"
        return self._run("sbatch", "--parsable", "--mem=1000", output, *options, str(SCRIPT), *words)

    def preempt(self, seconds: int) -> str:
        """A job of both nodes, of so many seconds, before which the others have to give way.

        Returns:
            its id.
        """
        options = [f"--partition={URGENT}", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=1000"]
        return self._run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap=sleep {seconds}")

    def signal(self, job: str) -> None:
        """What SLURM sends before the time limit, to the script alone."""
        self._run("scancel", "--batch", "--signal=USR1", job)

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says; of the first member of an array."""
        words = self._run("scontrol", "show", "job", "--oneliner", job).splitlines()[0].split()
        return dict(word.partition("=")[::2] for word in words)

    def states(self, job: str) -> list[str]:
        """State of a job, or of each member of an array."""
        lines = self._run("scontrol", "show", "job", "--oneliner", job).splitlines()
        return [word.partition("=")[2] for line in lines for word in line.split() if word.startswith("JobState=")]

    def end(self, job: str) -> dict[str, str]:
        """Wait until a job has ended; what is known of it then."""
        running = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED"}
        wait_for(f"end of job {job}", lambda: not running & set(self.states(job)))
        return self.job(job)

    def log(self, job: str) -> str:
        """All that a job printed."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob(f"job-{job}-*.log")))

    def left(self) -> list[list[str]]:
        """Commands of Ray and pdray that run in there."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") == self._inside and process.status() != "zombie":
                    found.append(process.cmdline())
            except (psutil.Error, OSError):
                continue
        return [words for words in found if any("/ray" in word or word.startswith(("ray", "pdray")) for word in words)]

    def stop(self) -> None:
        """End everything: the kernel ends what lives in a process namespace with its first process."""
        self._outer.kill()
        self._outer.wait()


def _path() -> str:
    return f"{Path(sys.executable).parent}:/usr/sbin:/sbin:{os.environ['PATH']}"
