from __future__ import annotations

from tests.audit import report

SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
FAULTY = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-2020-1", "fix_versions": ["1.1", "2.0"]}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI"}


def test_a_known_fault_fails_and_names_its_mend() -> None:
    lines, code = report([SOUND, FAULTY])
    assert code == 1
    assert lines == [
        "pip-audit: old 1.0 has PYSEC-2020-1, mended in 1.1, 2.0",
        "pip-audit: 2 packages checked, 1 known faults",
    ]


def test_what_was_not_looked_up_is_said() -> None:
    assert report([SOUND, UNKNOWN]) == (
        ["pip-audit: 1 of 2 packages NOT CHECKED, no advisories", "pip-audit: 1 packages checked, 0 known faults"],
        0,
    )
    assert report([UNKNOWN]) == (["pip-audit: 1 of 1 packages NOT CHECKED, no advisories"], 0)
