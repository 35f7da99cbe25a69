"""Which files a corpus is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pdray.corpus.files import list_files
from pdray.errors import UserError


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_name_that_is_not_utf8_is_told(scheme: str, tmp_path: Path) -> None:
    """Found by the fuzz suite: a listing by URI raised UnicodeDecodeError."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).touch()
    with pytest.raises(UserError, match=r"udcff.jsonl' is not UTF-8.*rename it"):
        list_files(f"{scheme}{tmp_path}")
