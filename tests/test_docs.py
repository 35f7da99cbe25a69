"""The pages for users name what is there: links, commands, settings, files, and messages as the code has them."""

from __future__ import annotations

import argparse
import ast
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

import pdray
from pdray.cli import build_parser
from pdray.config import RunConfig, section_of

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    *DOCS,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "benchmarks" / "gpu.md",
    ROOT / "cluster" / "README.md",
    ROOT / "cluster" / "slurm" / "README.md",
]
SOURCES = [path for room in ("pdray", "jobs") for path in sorted((ROOT / room).rglob("*.py"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
CODE = re.compile(r"(?s:```.*?```)|`[^`\n]+`|^ {4}.+$", re.MULTILINE)
FIELD = "…"


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_something(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path, anchor in LINK.findall(text):
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), f"{page.name} links to {path}"
        if anchor and not anchor.startswith("pdray."):  # that of an object in the reference, which make docs checks
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {path}#{anchor}"


def test_every_page_is_in_the_navigation() -> None:
    trees = re.findall(r"```{toctree}\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    absent = [page.stem for page in DOCS if not any(fnmatch(page.stem, entry) for entry in entries)]
    assert absent == ["index"]
    for entry in entries:
        assert "*" in entry or (ROOT / "docs" / f"{entry}.md").is_file(), f"there is no page {entry}"


def commands() -> dict[str, set[str]]:
    """The options of every command of pdray."""
    parsers = next(one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)).choices
    return {name: set(parser._option_string_actions) for name, parser in parsers.items()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one(page: Path) -> None:
    known = commands()
    code = "\n".join(CODE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    for command, rest in re.findall(r"(?:^ *|`)pdray ([a-z]+)\b([^`\n#]*)", code, re.MULTILINE):
        assert command in known, f"pdray {command}"
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known[command], f"pdray {command}{rest}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^ *|`)make ([a-z]+)\b", code, re.MULTILINE)) <= targets
    for module in re.findall(r"python -m (benchmarks(?:\.\w+)*)", code):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_is_one(page: Path) -> None:
    code = "\n".join(CODE.findall(page.read_text(encoding="utf-8")))
    for section, field in RunConfig.model_fields.items():
        settings = section_of(field)
        for setting in re.findall(rf"(?<![\w.</-]){section}\.(\w+)(?![\w(*])", code) if settings else ():
            assert settings is not None and setting in settings.model_fields, f"{section}.{setting}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_of_the_repository_is_there(page: Path) -> None:
    code = "\n".join(CODE.findall(page.read_text(encoding="utf-8")))
    rooms = "pdray|jobs|cluster|configs|docs|benchmarks|tests"
    for path in re.findall(rf"(?<![\w./-])(?<!--out )((?:{rooms})/[\w./-]*\w)(?![\w*{FIELD}])", code):
        assert (ROOT / path).exists(), path


def test_every_page_that_the_code_names_is_there() -> None:
    for path in SOURCES:
        for page in re.findall(r"[\w/-]+/[\w-]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{path} names {page}"


def test_every_public_name_stands_in_the_reference() -> None:
    reference = (ROOT / "docs" / "api-python.md").read_text(encoding="utf-8")
    entries = set(re.findall(r"^\.\. auto(?:class|function):: pdray\.(\w+)$", reference, re.MULTILINE))
    assert entries == set(pdray.__all__)


def beginnings() -> set[str]:
    """Every text of the code, what is filled in as FIELD."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else FIELD for part in node.values))
    scripts = [ROOT / "cluster" / "local.sh", ROOT / "cluster" / "slurm" / "pdray.sbatch", ROOT / "Makefile"]
    said = [one for path in scripts for one in re.findall(r'(?:die|echo) "([^"]+)"', path.read_text(encoding="utf-8"))]
    return found | {re.sub(r"\$\(?\w+\)?|\$\d", FIELD, text) for text in said}


def test_every_message_begins_as_in_the_code() -> None:
    code = beginnings()
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 50
    unknown = [one for one in messages if not any(text.startswith(one.rstrip(FIELD + "; ")) for text in code)]
    assert unknown == []
