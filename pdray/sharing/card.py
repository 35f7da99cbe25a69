"""The card of a data set: what the hub reads and shows, and what a person should know before training on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pdray import __version__
from pdray.config.text import parse_yaml
from pdray.errors import UserError
from pdray.report import words
from pdray.report.run import RunView
from pdray.report.samples import turns
from pdray.sharing.files import FORMATS
from pdray.storage import StoragePath

if TYPE_CHECKING:
    from pdray.sharing.export import Exported

CARD = "README.md"
MOST_LETTERS = 700  # of a text in a sample
MOST_SOURCES = 30  # and licences
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10**7, "1M<n<10M"))


@dataclass(frozen=True)
class Sample:
    """A pair on the card.

    Attributes:
        pair_id, aspect: of the pair.
        pd: its divergence, None where it has none.
        texts: the name of a text -> what is shown of it.
    """

    pair_id: str
    aspect: str
    pd: float | None
    texts: dict[str, str]

    @staticmethod
    def of(pair: dict[str, Any]) -> Sample:
        """Of a row of the data set."""
        sides = ("prompt", "chosen", "rejected")
        return Sample(pair["pair_id"], pair["aspect"], pair["pd"], {side: _shown(pair[side]) for side in sides})

    @property
    def fence(self) -> str:
        """What stands around the texts: longer than every run of backticks in them."""
        runs = [len(run) for text in self.texts.values() for run in re.findall("`+", text)]
        return "`" * max(3, 1 + max(runs, default=0))


def _shown(text: str | list[dict[str, str]]) -> str:
    whole = "\n\n".join(f"{role}: {said}" if role else said for role, said, _ in turns(text))
    return whole if len(whole) <= MOST_LETTERS else whole[:MOST_LETTERS] + " […]"


def find_license(run: RunView) -> str | None:
    """The licence that ``pdray data`` wrote beside the corpus, ``other`` where there are several; else None.

    Raises:
        UserError: what stands there cannot be read.
    """
    paths = run.section("corpus").get("path")
    found: set[str] = set()
    for path in [paths] if isinstance(paths, str) else paths or []:
        for folder in (StoragePath(str(path)), StoragePath(str(path)).parent):
            manifest = folder / "manifest.yaml"
            try:
                if not manifest.exists():
                    continue
                value = parse_yaml(manifest.read_bytes().decode("utf-8"))
            except UserError:
                raise
            except (OSError, ValueError):
                raise UserError(f"{manifest} cannot be read; name the licence of the texts with --license") from None
            licenses = value.get("licenses") if isinstance(value, dict) else None
            found.update(map(str, licenses if isinstance(licenses, dict) else ()))
            break
    return next(iter(found)) if len(found) == 1 else "other" if found else None


def write_card(run: RunView, folder: Path, done: Exported, form: str) -> None:
    """Write ``README.md``.

    Args:
        run: whose pairs they are.
        folder: of the data set.
        done: what was written.
        form: the files' suffix.
    """
    total, metrics = sum(done.pairs.values()), run["selection"].metrics
    later = ("alignment", "evaluation")  # what was done with the pairs is not how they were selected
    selecting = replace(run, config={name: value for name, value in run.config.items() if name not in later})
    head = {
        "license": done.license,
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "rlhf", "trl", "pdray"],
        "size_categories": [next((name for most, name in SIZES if total < most), "n>10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": f"data/{split}-*.{form}{FORMATS[form].inside}"} for split in done.pairs
                ],
            }
        ],
    }
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - no HTML
    environment.filters |= {"percent": words.percent, "number": words.number, "plain": _plain}
    page = environment.get_template("card.md").render(
        head=yaml.safe_dump(head, sort_keys=False),
        done=done,
        total=total,
        headline=words.headline(run),
        asked=words.asked(selecting),
        came_out=words.came_out(run, None),
        metrics=metrics,
        proxies=run["proxies"].metrics.get("aspects", {}),
        base=_name(run.section("proxies").get("base_model")),
        sources=done.sources.most_common(MOST_SOURCES) if done.sources is not None else [],
        licenses=done.licenses.most_common(MOST_SOURCES) if done.licenses else [],
        licensed=done.licenses is None or bool(done.licenses),
        other_sources=max(0, len(done.sources) - MOST_SOURCES) if done.sources is not None else None,
        fingerprint=run["selection"].manifest["fingerprint"],
        version=__version__,
    )
    (folder / CARD).write_text(page, encoding="utf-8")


def _name(path: str | None) -> str | None:
    """The last part of a folder's path, which says nothing of the machine; the whole name of a model on the hub."""
    return path and (Path(path).name if Path(path).is_absolute() or "://" in path else path)


def _plain(text: str) -> str:
    """On one line, and no markup whatever it holds."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", re.sub(r"\s+", " ", text))
