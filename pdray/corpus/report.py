"""Counts over the whole corpus, added up from the markers of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pdray.corpus.rows import DROPPED
from pdray.shards import Marker


@dataclass
class Report:
    """Counts over the whole corpus.

    Attributes:
        rows: rows read, good and bad.
        pairs: pairs written.
        texts: distinct texts written.
        reasons: rows set aside or dropped, by reason.
        aspects: pairs written, by aspect.
        repeated: pairs whose responses repeated the prompt.
        preferred: pairs whose overall label prefers one of their responses.
        in_conflict, judged: pairs whose label opposes the other true ratings, and pairs where that is known.
        licenses: pairs written, by licence, in a corpus that has licences.
    """

    rows: int = 0
    pairs: int = 0
    texts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    aspects: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    preferred: int = 0
    in_conflict: int = 0
    judged: int = 0
    licenses: Counter[str] = field(default_factory=Counter)

    @property
    def conflict(self) -> float | None:
        """Share of pairs in conflict, None without true ratings."""
        return self.in_conflict / self.judged if self.judged else None

    @property
    def dropped(self) -> dict[str, int]:
        """Rows left out by a rule although nothing is wrong with them, by rule."""
        return {reason: self.reasons[reason] for reason in DROPPED if reason in self.reasons}

    @property
    def bad(self) -> Counter[str]:
        """Rows in the quarantine, by reason."""
        return Counter({reason: count for reason, count in self.reasons.items() if reason not in DROPPED})


def add_up(markers: Iterable[Marker]) -> Report:
    """The report of some shards."""
    report = Report()
    for marker in markers:
        facts = marker.facts
        for name in ("rows", "pairs", "texts", "repeated", "preferred", "in_conflict", "judged"):
            setattr(report, name, getattr(report, name) + facts[name])
        report.reasons.update(facts["reasons"])
        report.aspects.update(facts["aspects"])
        report.licenses.update(facts.get("licenses", {}))
    return report
