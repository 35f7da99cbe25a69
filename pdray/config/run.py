"""The whole run: its sections and what has to hold between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pdray.config.alignment import AlignmentConfig
from pdray.config.cluster import ClusterConfig
from pdray.config.corpus import CorpusConfig
from pdray.config.crossfit import CrossfitConfig
from pdray.config.evaluation import EvaluationConfig
from pdray.config.logprobs import LogprobsConfig
from pdray.config.proxies import ProxiesConfig
from pdray.config.scores import ScoresConfig
from pdray.config.section import HOW, Name, Section, Share
from pdray.paths import lacks_a_slash
from pdray.selection.strategies import BUILT_IN, names


class SelectionConfig(Section):
    """Which pairs are kept (docs/method.md: eq. 13-15 and the cut)."""

    strategy: str = Field(
        "pd",
        description=f"what is kept: {', '.join(BUILT_IN)}, or an installed plugin's",
    )
    budget: Share = Field(0.3, description="λ, share of the pairs that is kept, in (0, 1]")
    gamma: Share = Field(0.9, description="γ, the quantile of |margin| that scales to 1")
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        {}, description="aspect -> how much its margin counts in the divergence; 1, the paper's, where it is not named"
    )
    quota: Literal["aspect", "source", "length"] | None = Field(
        None,
        description="share the budget out to each aspect, source, or length of the chosen response (within a "
        "factor of two), so that the same share of each is kept; null: the best pairs whatever they are",
    )
    rank: Literal["kept", "all", "none"] = Field(
        "kept", description="pairs whose rank is written, by a distributed sort: the kept ones, all, or none"
    )
    method: Literal["radix", "sort"] = Field(
        "radix",
        description="how the cut is found, with the same result: radix passes, or a distributed sort of all pairs",
        json_schema_extra=HOW,
    )

    @field_validator("strategy")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in names():
            raise ValueError(f"is {name!r}, but the strategies here are {', '.join(names())}")
        return name


class RunConfig(Section):
    """One run: its stages and the folder that they write to."""

    run: Name = Field("runs/my-run", description="run folder: a path that every node mounts, or s3://bucket/folder")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random choice")
    rounds: Annotated[int, Field(ge=1, le=99)] = Field(
        1,
        description="times that pairs are selected and the policy is trained: each round reads the corpus with the "
        "policy of the one before as logprobs.policy, for a strategy that reads it, and trains alignment.policy anew",
        json_schema_extra=HOW,  # every round is a run of its own, and what differs is in its settings
    )
    cluster: ClusterConfig = ClusterConfig()
    corpus: CorpusConfig
    proxies: ProxiesConfig
    scores: ScoresConfig = ScoresConfig()
    logprobs: LogprobsConfig | None = Field(
        None,
        description="{policy: FOLDER, reference: FOLDER, max_tokens: 512, ...}: log-probabilities of every response, "
        "for the strategies that select by them; null: not computed",
    )
    crossfit: CrossfitConfig | None = Field(
        None,
        description="{folds: 2, repeats: 3, max_steps: null, max_tokens: 512, ...}: the loss of every pair under "
        "policies that the alignment's settings train on other prompts, for the strategy selective; null: not computed",
    )
    selection: SelectionConfig = SelectionConfig()
    alignment: AlignmentConfig | None = Field(None, description="leave the section out to stop at the selection")
    evaluation: EvaluationConfig | None = Field(
        None,
        description="{pairs: FILE, generation: {...}, endpoints: {...}, ...}: how often the trained policy prefers the "
        "better response of held-out pairs, and how often its answers win (docs/evaluation.md); null: not computed",
    )

    @field_validator("run")
    @classmethod
    def _folder_or_uri(cls, run: str) -> str:
        if odd := lacks_a_slash(run):
            raise ValueError(odd)
        return run

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        aspects, models = self.corpus.aspects, self.proxies.model_aspects
        if aspects and models and set(aspects) - set(models):
            missing = ", ".join(sorted(set(aspects) - set(models)))
            raise ValueError(
                f"proxies.models has no model for {missing}; add it or remove the aspect from corpus.aspects"
            )
        return self

    @model_validator(mode="after")
    def _a_policy_to_judge(self) -> RunConfig:
        if self.evaluation is not None and self.alignment is None:
            raise ValueError(
                "evaluation is set, but without an alignment section no policy is trained that it could judge; add one "
                "(see pdray init), or leave evaluation out"
            )
        return self

    @model_validator(mode="after")
    def _something_to_repeat(self) -> RunConfig:
        missing = [name for name in ("logprobs", "alignment") if getattr(self, name) is None]
        if self.rounds > 1 and missing:
            raise ValueError(
                f"rounds is {self.rounds}, but there is no {' and no '.join(missing)} section: each round trains a "
                "policy, and the next one selects by what it makes of the pairs; add the section, or set rounds to 1"
            )
        if self.rounds > 1 and self.crossfit is not None:
            raise ValueError(
                f"rounds is {self.rounds}, but the losses of crossfit are the same in every round; leave the section "
                "out, or set rounds to 1"
            )
        return self

    @model_validator(mode="after")
    def _a_training_to_repeat(self) -> RunConfig:
        if self.crossfit is not None and self.alignment is None:
            raise ValueError(
                "crossfit trains policies by the settings of the alignment section, but there is none; add one (see "
                "pdray init), or leave crossfit out"
            )
        return self

    @model_validator(mode="after")
    def _labels_say_something(self) -> RunConfig:
        without = sorted(aspect for aspect, weight in self.selection.weights.items() if not weight)
        if self.alignment is not None and self.alignment.loss == "dfpo" and without:
            raise ValueError(
                f"alignment.loss is dfpo but selection.weights gives 0 to {', '.join(without)}, and what a label of an "
                "aspect that counts nothing says of the policy is not defined; set a weight above 0 or alignment.loss "
                "to dpo"
            )
        return self
