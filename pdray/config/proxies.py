"""Settings of the proxies stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from pdray.aspects import UNIFIED
from pdray.config.lora import LoraConfig
from pdray.config.section import HOW, Count, Epochs, Name, Section, Share, Tracker, require_distinct


class MultiHeadModel(Section):
    """One ready reward model that scores several aspects."""

    path: Name = Field(description="model folder, a sequence classifier")
    labels: dict[str, Annotated[int, Field(ge=0)]] = Field(description="aspect -> number of its label, from 0")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        if len(set(labels.values())) < len(labels):
            raise ValueError("two aspects have the same label; give each its own")
        require_distinct(labels)
        return labels


def _kind_of_models(value: Any) -> str:
    several = isinstance(value, MultiHeadModel) or (isinstance(value, dict) and isinstance(value.get("labels"), dict))
    return MULTI_HEAD if several else MODEL_EACH


MULTI_HEAD, MODEL_EACH = "one model for all", "one model each"
ReadyModels = Annotated[
    Annotated[dict[str, Name], Tag(MODEL_EACH)] | Annotated[MultiHeadModel, Tag(MULTI_HEAD)],
    Discriminator(_kind_of_models),
]


class ProxiesConfig(Section):
    """The proxy reward models, one per aspect (docs/method.md: eq. 11 and the length remedies)."""

    models: ReadyModels | None = Field(
        None,
        description="ready reward models, aspect -> folder or URI, or {path: FOLDER, labels: {aspect: number}} "
        "for one with a label per aspect; set this to skip training",
    )
    base_model: Name | None = Field(
        None,
        description="model folder that each proxy starts from, a path or a URI",
        json_schema_extra=HOW,  # its files decide, not where they lie
    )
    unified: bool = Field(
        False,
        description="also train one reward model on the pairs of all aspects together, which the strategy raf selects "
        "by; among ready models it is the one named unified",
    )
    train: Literal["all", "head"] = Field("all", description="train all weights, or the head on a frozen backbone")
    kind: Literal["shared", "separate"] = Field(
        "shared",
        description="train all: one model with a label for each aspect, which scoring reads each text with once, or a "
        "model for each aspect, as in the paper",
    )
    reading: Literal["auto", "together", "apart"] = Field(
        "auto",
        description="train head: read prompt and response together as one text, or embed each apart and let the head "
        "compare them; auto: whichever predicts better in cross-validation",
    )
    share: Share = Field(1.0, description="share p_r of each aspect's pairs that is used")
    max_pairs_per_aspect: Count = Field(20_000, description="most pairs of an aspect to train on")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="share of an aspect's pairs kept for held-out accuracy, with prompts of their own"
    )
    max_held_out_pairs: Count = Field(2_000, description="most pairs of an aspect to hold out")
    balance_temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        1.0,
        description="τ of balanced length sampling; null turns it off; auto, for heads: between 0.1 and 10, where each "
        "proxy's margins on the held-out pairs go least with length, before length_penalty auto",
    )
    length_penalty: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.001,
        description="ρ, reward per token of length difference; 0 turns it off; auto: what makes each proxy's margins "
        "on the held-out pairs independent of length (rank correlation 0), subtracted when scoring alone; with the "
        "form residual, for heads, in the loss alone",
    )
    length_penalty_form: Literal["eq16", "residual"] = Field(
        "eq16", description="eq16: fit and score Δr − ρΔlen; residual: fit Δr + ρΔlen, score Δr"
    )
    length_baseline: bool = Field(
        True, description="also train without the remedies, to report the length bias before and after"
    )
    max_baseline_pairs: Count = Field(
        5_000, description="train all: most pairs of an aspect to train such a baseline on; it takes as long again"
    )
    epochs: Epochs = Field(
        1.0, description="train all: passes over an aspect's pairs (heads are fitted to convergence)"
    )
    learning_rate: float = Field(5e-5, gt=0, description="train all: peak learning rate (heads need none)")
    batch_size: Count = Field(16, description="train all: pairs per step and worker")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="train all: compute precision (features are computed in scores.dtype)"
    )
    lora: LoraConfig | None = Field(
        None,
        description="train all: adapters (r, alpha, target_modules) in place of the backbone's weights; null: these",
    )
    save_steps: Count = Field(200, description="train all: optimizer steps between checkpoints", json_schema_extra=HOW)
    num_workers: Count = Field(1, description="train all: Ray Train workers per proxy")
    cpus_per_worker: float = Field(1, gt=0, description="train all: CPUs per worker", json_schema_extra=HOW)
    gpus_per_worker: float = Field(0, ge=0, description="train all: GPUs per worker", json_schema_extra=HOW)
    max_failures: int = Field(
        1,
        ge=0,
        description="train all: restarts in a row that bring no newer checkpoint; those that bring one are not counted",
        json_schema_extra=HOW,
    )
    report_to: list[Tracker] = Field(
        default_factory=list,
        description="train all: trackers that get the log: tensorboard, wandb, mlflow, trackio; a run for each model",
        json_schema_extra=HOW,
    )

    @model_validator(mode="after")
    def _source(self) -> ProxiesConfig:
        if (self.models is None) == (self.base_model is None):
            raise ValueError("set exactly one of base_model (to train proxies) and models (to bring your own)")
        if self.models is not None and len(self.model_aspects) < 2:
            raise ValueError("preference divergence compares aspects, so name a model for at least two")
        if self.models is not None and self.unified:
            raise ValueError(
                f"unified trains a reward model, but models brings ready ones; name it {UNIFIED} among them, or leave "
                "unified out"
            )
        require_distinct(self.model_aspects)
        if self.reading == "apart" and self.train != "head":
            raise ValueError("reading is apart, but only heads read so; set train to head, or leave reading out")
        if self.models is None and self.train != "head":
            self._found_without_training()
        if self.lora is not None and self.train != "all":
            raise ValueError("lora is set, but heads train nothing below them; set train to all, or leave lora out")
        if self.report_to and self.train != "all":
            raise ValueError(
                "report_to is set, but heads take no steps to tell of; set train to all, or leave report_to out"
            )
        return self

    def _found_without_training(self) -> None:
        """Refuse what is found by fitting again and again: a head affords that, a model does not."""
        if self.balance_temperature == "auto":
            raise ValueError(
                "balance_temperature auto fits a proxy again for every τ that is tried, which only heads afford; set "
                "train to head, or balance_temperature to a number or null"
            )
        if self.length_penalty == "auto" and self.length_penalty_form == "residual":
            raise ValueError(
                "length_penalty auto with length_penalty_form residual fits a proxy again for every ρ that is tried, "
                "which only heads afford; set train to head, leave the form out, or give length_penalty a number"
            )

    @property
    def training_temperature(self) -> float | None:
        """τ of the training; None where there is none, and where it is found afterwards."""
        return None if self.balance_temperature == "auto" else self.balance_temperature

    @property
    def training_penalty(self) -> float:
        """ρ of the training's loss; 0 where it is found afterwards."""
        return 0.0 if self.length_penalty == "auto" else self.length_penalty

    @property
    def model_aspects(self) -> list[str]:
        """The aspects that the ready models score, sorted; empty where models are trained."""
        return sorted({*self._ready} - {UNIFIED})

    @property
    def has_unified(self) -> bool:
        """Whether there is a reward model of all aspects together."""
        return self.unified or UNIFIED in self._ready

    @property
    def _ready(self) -> dict[str, Any]:
        return (self.models.labels if isinstance(self.models, MultiHeadModel) else self.models) or {}

    @property
    def folders(self) -> dict[str, str]:
        """The model folders that the section names, by the name of their setting."""
        if self.base_model is not None:
            return {"proxies.base_model": self.base_model}
        if isinstance(self.models, MultiHeadModel):
            return {"proxies.models.path": self.models.path}
        return {f"proxies.models.{aspect}": folder for aspect, folder in (self.models or {}).items()}
