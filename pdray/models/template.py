"""A model's chat template, run in a process of its own: it is a program, which may raise, fill memory or never end.

``python -m pdray.models.template FOLDER SECONDS`` is that process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pdray.errors import UserError
from pdray.models.files import read_object

SECONDS = 10  # of processor time, once the tokenizer is loaded
WALL_SECONDS = 300
MEMORY_BYTES = 8 << 30  # of data; the libraries themselves, which a CUDA build has many gigabytes of, do not count
LONGEST = 100_000  # characters for a conversation of three words
PROBES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "a"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
)
# Of the second of these another text of one role each.
OTHERS: dict[str, list[dict[str, str]]] = {
    "user": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "b"}],
    "assistant": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}],
}
CURE = "correct or remove the template, or copy its files again from where the model comes from"


def check_template(name: str, folder: str) -> None:
    """Refuse a folder whose chat template fails on a short conversation, leaves out a text of it, or does not end.

    Args:
        name: how messages call the folder, for example ``alignment.policy is /models/sft``.
        folder: the model folder.

    Raises:
        UserError: with what the template said, and the cure.
    """
    if not has_template(folder):
        return
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pdray.models.template", folder, str(SECONDS)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WALL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode < 0:
        raise UserError(f"{name}, whose chat template does not end within {SECONDS} seconds; {CURE}")
    if done.returncode:
        said = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()] or ["no message"]
        raise UserError(f"{name}, whose tokenizer or chat template cannot be used ({said[-1].strip()[:300]}); {CURE}")


def has_template(folder: str) -> bool:
    """Whether a model folder comes with a chat template."""
    root = Path(folder)
    if (root / "chat_template.jinja").exists() or (root / "additional_chat_templates").exists():
        return True
    config = root / "tokenizer_config.json"
    return config.is_file() and bool(read_object(f"a model is {folder}", config).get("chat_template"))


def main(folder: str, seconds: str) -> int:
    """Try the template on short conversations; 0 if it takes them or refuses them in its own words."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    from pdray.models.loading import load_tokenizer_files

    try:
        tokenizer = load_tokenizer_files(folder)
        # Importing the libraries, before this, and ending the process, after it, take a slow machine as long.
        before = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + int(seconds), before[1]))
        _, written, _ = [_attempt(tokenizer, messages) for messages in PROBES]
        for role, messages in OTHERS.items():
            if written is not None and _attempt(tokenizer, messages) == written:
                raise ValueError(f"it makes the same text of conversations in which the {role} says something else")
        resource.setrlimit(resource.RLIMIT_CPU, before)
    except BaseException as error:  # whatever a template raises, MemoryError included
        print(f"{type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


def _attempt(tokenizer: Any, messages: list[dict[str, str]]) -> str | None:
    """What the template makes of a conversation; None where it refuses it in its own words."""
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError as error:
        if type(error) is TemplateError:  # its own raise_exception: it wants other roles, which the corpus may have
            return None
        raise
    if len(text) > LONGEST:
        raise ValueError(f"it makes more than {LONGEST:,} characters of three words")
    return text


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
