"""The data sets that ``pdray data`` knows: where they lie, their licence, and how their rows are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pdray.builders import layouts
from pdray.builders.units import Rows, Unit
from pdray.errors import UserError


@dataclass(frozen=True)
class Layout:
    """How the rows of a data set are read.

    Attributes:
        units: from rows to rated responses of a prompt.
        columns: that the files must have.
        aspects: sorted.
        conversational: whether its prompts are messages.
    """

    units: Callable[[Rows], Iterator[Unit]]
    columns: tuple[str, ...]
    aspects: tuple[str, ...]
    conversational: bool = False


@dataclass(frozen=True)
class DataSet:
    """A published data set.

    Attributes:
        hub: its name on the Hugging Face hub.
        license: as its card says, an SPDX name in lower case where there is one.
        layout: of its rows.
        config: the configuration on the hub.
    """

    hub: str
    license: str
    layout: Layout
    config: str | None = None


RESPONSES = ("prompt", "response", *layouts.HELPSTEER)
DATA_SETS = {
    "ultrafeedback": DataSet(
        "openbmb/UltraFeedback",
        "mit",
        Layout(layouts.ultrafeedback, ("instruction", "completions"), layouts.ULTRAFEEDBACK),
    ),
    "ultrafeedback-cleaned": DataSet(
        "argilla/ultrafeedback-binarized-preferences-cleaned",
        "mit",
        Layout(
            layouts.ultrafeedback_cleaned,
            ("prompt", "chosen", "rejected", "chosen-rating", "rejected-rating"),
            ("overall",),
        ),
    ),
    "helpsteer": DataSet("nvidia/HelpSteer", "cc-by-4.0", Layout(layouts.helpsteer, RESPONSES, layouts.HELPSTEER)),
    "helpsteer2": DataSet(
        "nvidia/HelpSteer2", "cc-by-4.0", Layout(layouts.helpsteer2, RESPONSES, layouts.HELPSTEER, conversational=True)
    ),
    "helpsteer3": DataSet(
        "nvidia/HelpSteer3",
        "cc-by-4.0",
        Layout(
            layouts.helpsteer3,
            ("context", "response1", "response2", "overall_preference"),
            ("overall",),
            conversational=True,
        ),
        config="preference",
    ),
    "pku-saferlhf": DataSet(
        "PKU-Alignment/PKU-SafeRLHF",
        "cc-by-nc-4.0",
        Layout(
            layouts.pku_saferlhf,
            ("prompt", "response_0", "response_1", "better_response_id", "safer_response_id"),
            ("helpfulness", "safety"),
        ),
    ),
    "shp": DataSet(
        "stanfordnlp/SHP",
        "reddit-api-terms",
        Layout(
            layouts.shp,
            ("history", "human_ref_A", "human_ref_B", "score_A", "score_B", "labels"),
            ("helpfulness",),
        ),
    ),
}
RATED = "rated"
NAMES = (*DATA_SETS, RATED)
MAPPED = ("prompt", "response", "response_a", "response_b", "source")
PREFIXES = ("rating.", "score_a.", "score_b.")


def rated_layout(columns: frozenset[str], named: dict[str, str]) -> Layout:
    """The layout of rated data of one's own, a row a response or a row a pair.

    Args:
        columns: of the files.
        named: our name (prompt, response, response_a, response_b, source, rating.<aspect>, score_a.<aspect>,
            score_b.<aspect>) -> theirs, where they differ.

    Raises:
        UserError: a name is none of these, two name one column, or ratings are missing. Reading raises it of a rating
            that no first row has.
    """
    if odd := [name for name in named if name not in MAPPED and not name.startswith(PREFIXES)]:
        raise UserError(
            f"--column {odd[0]}=… names nothing that rated data has; it has {', '.join(MAPPED)} and "
            f"{', '.join(f'{prefix}<aspect>' for prefix in PREFIXES)}"
        )
    ours = {name: name for name in (*MAPPED, *sorted(columns)) if name in MAPPED or name.startswith(PREFIXES)} | named
    rated = {prefix: _by_aspect(ours, prefix) for prefix in PREFIXES}
    source = ours["source"] if ours["source"] in columns or "source" in named else None
    optional = () if "source" in named else ("source",)
    by_pair = {
        aspect: (a, rated["score_b."][aspect]) for aspect, a in rated["score_a."].items() if aspect in rated["score_b."]
    }
    if by_pair:
        sides = ours["response_a"], ours["response_b"]
        needed = (ours["prompt"], *sides, *(name for both in by_pair.values() for name in both))
        _refuse_twice(needed)
        return Layout(
            lambda rows: layouts.pairs_in_rows(
                _none_late(rows, columns, optional), ours["prompt"], sides, by_pair, source
            ),
            (*needed, *([source] if source else [])),
            tuple(sorted(by_pair)),
        )
    by_response = rated["rating."]
    if not by_response:
        raise UserError(
            f"no ratings are among the columns {', '.join(sorted(columns)) or 'none'}; map them with --column "
            "rating.<aspect>=NAME (a row a response), or --column score_a.<aspect>=NAME and score_b.<aspect>=NAME "
            "(a row a pair)"
        )
    needed = (ours["prompt"], ours["response"], *by_response.values())
    _refuse_twice(needed)
    return Layout(
        lambda rows: layouts.responses_in_rows(
            _none_late(rows, columns, optional), ours["prompt"], ours["response"], by_response, source
        ),
        (*needed, *([source] if source else [])),
        tuple(sorted(by_response)),
    )


def _by_aspect(ours: dict[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): column for name, column in ours.items() if name.startswith(prefix)}


def _refuse_twice(columns: tuple[str, ...]) -> None:
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise UserError(
            f"the column {twice[0]!r} would be two things of a row; give each a column of its own by --column"
        )


def _none_late(rows: Rows, columns: frozenset[str], optional: tuple[str, ...]) -> Rows:
    """The rows, of which none has a rating, or a column that may be left out, that no first row has."""
    for row, where in rows:
        if late := [name for name in row.keys() - columns if name.startswith(PREFIXES) or name in optional]:
            raise UserError(
                f"{where}: {min(late)} is in none of the first rows, so that it would not count; write it into the "
                "first row as well, null where there is none"
            )
        yield row, where


def check_columns(layout: Layout, columns: frozenset[str], name: str) -> None:
    """Refuse files without a column of their layout.

    Raises:
        UserError: it says which data set has such columns, if one does.
    """
    if not (missing := [column for column in layout.columns if column not in columns]):
        return
    alike = [other for other, one in DATA_SETS.items() if set(one.layout.columns) <= columns]
    cure = f"these are columns of pdray data {' or '.join(alike)}" if alike else "give files of its published layout"
    if name == RATED:
        cure = "map the names of yours with --column"
    raise UserError(
        f"the input has no column {', '.join(missing)}, which {name} has; {cure} "
        f"(its columns are: {', '.join(sorted(columns)) or 'none'})"
    )
