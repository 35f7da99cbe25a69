"""The reward models of a run as the scoring stage needs them, checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pdray.errors import UserError
from pdray.models.positions import max_positions
from pdray.paths import is_remote
from pdray.schema import ProxiesOutput
from pdray.storage import StoragePath


@dataclass(frozen=True)
class RewardModels:
    """The models of a run.

    Attributes:
        folders: of each.
        outputs: the aspect of each output over all models, in order; None for one that no pair needs.
    """

    folders: list[StoragePath]
    outputs: list[str | None]

    @property
    def aspects(self) -> list[str]:
        """The aspects that are scored, sorted."""
        return sorted(aspect for aspect in self.outputs if aspect is not None)

    @property
    def columns(self) -> list[int]:
        """The output of each aspect, in the order of :attr:`aspects`."""
        return [self.outputs.index(aspect) for aspect in self.aspects]

    @property
    def labels(self) -> list[str]:
        """A name for each output."""
        return [aspect or f"label {number}, which no pair needs" for number, aspect in enumerate(self.outputs)]


def find_models(output: ProxiesOutput, run: StoragePath, max_tokens: int) -> RewardModels:
    """What the proxies stage handed over, with its folders found and read.

    Args:
        output: of the proxies stage.
        run: the run folder.
        max_tokens: tokens per text that will be asked for.

    Raises:
        UserError: a model has another number of labels than it was handed over with, or fewer positions than
            ``max_tokens``.
    """
    folders = [model_folder(model.path, run) for model in output.models]
    for folder, model in zip(folders, output.models, strict=True):
        config = (folder / "config.json").read_json()
        # Transformers writes the labels only where there are not two.
        labels = len(config.get("id2label") or range(config.get("num_labels", 2)))
        if labels != len(model.aspects):
            raise UserError(
                f"the reward model {folder} has {labels} labels, but {len(model.aspects)} were expected "
                f"({', '.join(str(aspect) for aspect in model.aspects)}); it was changed since: run the proxies again"
            )
        positions = max_positions(config)
        if positions is not None and max_tokens > positions:
            raise UserError(
                f"scores.max_tokens is {max_tokens}, but {folder} reads at most {positions} tokens; "
                f"set scores.max_tokens to {positions} or less"
            )
    outputs = [aspect for model in output.models for aspect in model.aspects]
    named = [aspect for aspect in outputs if aspect is not None]
    assert len(set(named)) == len(named), f"an aspect has two models: {named}"
    return RewardModels(folders, outputs)


def model_folder(path: str, run: StoragePath) -> StoragePath:
    """A model folder of a hand-over: below the run folder, unless it is absolute or remote."""
    return StoragePath(path) if is_remote(path) or path.startswith("/") else run / path
