"""Compare the installed packages with the advisories that pip-audit knows, and say how many could be looked up.

    python -m tests.audit

Exit code 1 where a package has a known fault. pip-audit passes over a package that its index does not answer for, so
behind a mirror without advisories it would find nothing and look content: here that is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 300


def main() -> int:
    """Run pip-audit on this environment."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--progress-spinner", "off", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        print(f"pip-audit: NOT CHECKED, the advisories did not answer within {SECONDS} s")
        return 0
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"pip-audit: NOT CHECKED, the advisories cannot be reached ({reason[:200]})")
        return 0
    lines, code = report(packages)
    print("\n".join(lines))
    return code


def report(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What to print, and the exit code.

    Args:
        packages: ``dependencies`` of pip-audit's JSON: ``name``, and ``version`` and ``vulns`` or a ``skip_reason``.
    """
    looked_up = [package for package in packages if "skip_reason" not in package]
    faults = [(package, fault) for package in looked_up for fault in package["vulns"]]
    lines = [
        f"pip-audit: {package['name']} {package['version']} has {fault['id']}, mended in "
        f"{', '.join(fault.get('fix_versions') or ['no version yet'])}"
        for package, fault in faults
    ]
    if unknown := len(packages) - len(looked_up):
        lines.append(f"pip-audit: {unknown} of {len(packages)} packages NOT CHECKED, no advisories")
    if looked_up:
        lines.append(f"pip-audit: {len(looked_up)} packages checked, {len(faults)} known faults")
    return lines, int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
