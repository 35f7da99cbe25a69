"""A policy that answers by a rule, in a module that Ray's workers can import."""

from __future__ import annotations

from pathlib import Path

from pdray.engines.engine import EngineOptions
from pdray.engines.vllm_generation import Answer, Decoding


class Talker:
    """Stands in for a policy in vLLM; writes down who was asked how much."""

    def __init__(self, folder: str, options: EngineOptions, decoding: Decoding) -> None:
        self.name, self.log = Path(folder).name, Path(folder).parents[Path(folder).name == "policy"] / "asked.txt"

    def answers(self, prompts: list[str]) -> list[Answer]:
        with self.log.open("a") as file:
            file.write(f"{self.name} {len(prompts)}\n")
        return [Answer(self.say(prompt), 3, False) for prompt in prompts]

    def say(self, prompt: str) -> str:
        number = int(prompt.split()[2])
        return "yes" if number == 5 else "go on " * (number + 1) if self.name == "policy" else "now " * 6
