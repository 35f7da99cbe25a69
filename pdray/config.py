"""The whole run as validated pydantic models.

This module imports neither Ray nor torch (a test proves it), so that a wrong configuration is refused
before anything starts. Every message states the value, the rule and the cure.

A field marked with :data:`HOW` says how a result is computed and never what it is: it stays out of the
stage fingerprints, so that changing it reuses finished stages.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from pdray.errors import UserError
from pdray.paths import absolute, expand, holds_secret, is_remote, without_secret

HOW: dict[str, Any] = {"fingerprint": False}

# vllm.LLM argument -> what decides it here
ENGINE_ARGS_OF_OURS = {
    "model": "proxies",
    "runner": "always pooling",
    "trust_remote_code": "always false",
    "load_format": "always safetensors",
    "dtype": "scores.dtype",
    "max_model_len": "scores.max_tokens",
    "tensor_parallel_size": "scores.gpus_per_actor",
    "gpu_memory_utilization": "scores.memory_share",
    "kv_cache_memory_bytes": "scores.cpu_cache_gib",
}

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A block of the YAML: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClusterConfig(Section):
    """Which Ray to run on."""

    address: str | None = Field(
        None, description="null starts a local Ray (or joins $RAY_ADDRESS); 'auto' joins the running one"
    )
    num_cpus: Count | None = Field(None, description="CPUs of a local Ray; null means all of them")


class ColumnNames(Section):
    """Names that the corpus columns have in the user's files."""

    pair_id: str = Field("pair_id", description="unique id; made from the content where the column is absent")
    prompt: str = Field("prompt", description="prompt column")
    chosen: str = Field("chosen", description="preferred response (kind: pairs)")
    rejected: str = Field("rejected", description="other response (kind: pairs)")
    aspect: str = Field("aspect", description="the one aspect that labelled the pair (kind: pairs)")
    overall: str = Field("overall", description="overall label, for evaluation only")
    source: str = Field("source", description="where the pair comes from, carried along")
    response: str = Field("response", description="response (kind: rated, one row per response)")
    response_a: str = Field("response_a", description="first response (kind: rated, one row per pair)")
    response_b: str = Field("response_b", description="second response (kind: rated, one row per pair)")
    ratings: dict[str, str] = Field(
        default_factory=dict,
        description="aspect -> rating column (kind: rated, one row per response); empty: columns named rating.<aspect>",
    )


class CorpusConfig(Section):
    """Where the preference pairs come from and what is accepted."""

    kind: Literal["pairs", "rated"] = Field(
        "pairs", description="pairs: one aspect per pair; rated: ratings per aspect, turned into pairs"
    )
    path: str | list[str] | None = Field(
        None,
        description="file, folder or glob (parquet, JSONL, .gz/.zst/.bz2), local or s3://…; or a list of them",
        json_schema_extra=HOW,  # what lies there decides, not where it lies
    )
    hub: str | None = Field(
        None, description="Hugging Face data set to load instead of path; a name is not looked up again once loaded"
    )
    hub_config: str | None = Field(None, description="configuration name of the hub data set")
    hub_split: str = Field("train", description="split of the hub data set")
    columns: ColumnNames = ColumnNames()
    partition_columns: list[str] = Field(
        [], description="columns that stand in folder names, as in aspect=honesty/x.parquet; others there are ignored"
    )
    aspects: list[str] | None = Field(None, description="accepted aspects; null takes those found in the data")
    max_quarantined: float = Field(0.05, ge=0, le=1, description="largest share of rows that may be quarantined")
    texts_per_shard: Count | None = Field(
        None,
        description="distinct texts in a unit of work and of resume; null: 16384 where the cluster has GPUs, else 2048",
        json_schema_extra=HOW,
    )

    @field_validator("aspects")
    @classmethod
    def _two_aspects(cls, aspects: list[str] | None) -> list[str] | None:
        if aspects is not None and len(set(aspects)) < 2:
            raise ValueError("preference divergence compares aspects, so list at least two different ones")
        if aspects is not None and len(set(aspects)) != len(aspects):
            raise ValueError("an aspect is listed twice; list each once")
        return aspects

    @model_validator(mode="after")
    def _one_input(self) -> CorpusConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("set exactly one of path (files) and hub (a data set by name)")
        if self.hub is not None and self.partition_columns:
            raise ValueError("partition_columns stand in the folders of corpus.path, not in a hub's; take them out")
        return self

    @property
    def patterns(self) -> list[str]:
        """The paths as a list; empty for a hub data set."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])


class MultiHeadModel(Section):
    """One ready reward model that scores several aspects."""

    path: str = Field(description="model folder, a sequence classifier")
    labels: dict[str, Annotated[int, Field(ge=0)]] = Field(description="aspect -> number of its label, from 0")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        if len(set(labels.values())) < len(labels):
            raise ValueError("two aspects have the same label; give each its own")
        return labels


def _kind_of_models(value: Any) -> str:
    several = isinstance(value, MultiHeadModel) or (isinstance(value, dict) and isinstance(value.get("labels"), dict))
    return MULTI_HEAD if several else MODEL_EACH


MULTI_HEAD, MODEL_EACH = "one model for all", "one model each"
ReadyModels = Annotated[
    Annotated[dict[str, str], Tag(MODEL_EACH)] | Annotated[MultiHeadModel, Tag(MULTI_HEAD)],
    Discriminator(_kind_of_models),
]


class ProxiesConfig(Section):
    """The proxy reward models, one per aspect (METHOD: eq. 11 and the length remedies)."""

    models: ReadyModels | None = Field(
        None,
        description="ready reward models, aspect -> folder, or {path: FOLDER, labels: {aspect: number}} for one with a "
        "label per aspect; set this to skip training",
    )
    base_model: str | None = Field(
        None,
        description="model folder that each proxy starts from",
        json_schema_extra=HOW,  # its files decide, not where they lie
    )
    train: Literal["all", "head"] = Field("all", description="train all weights, or the head on a frozen backbone")
    share: Share = Field(1.0, description="share p_r of each aspect's pairs that is used")
    max_pairs_per_aspect: Count = Field(20_000, description="most pairs of an aspect to train on")
    held_out: float = Field(
        0.1, gt=0, lt=1, description="share of an aspect's pairs kept for held-out accuracy, with prompts of their own"
    )
    max_held_out_pairs: Count = Field(2_000, description="most pairs of an aspect to hold out")
    balance_temperature: float | None = Field(1.0, gt=0, description="τ of balanced length sampling; null turns it off")
    length_penalty: float = Field(0.001, ge=0, description="ρ, reward per token of length difference; 0 turns it off")
    length_penalty_form: Literal["eq16", "residual"] = Field(
        "eq16", description="eq16: fit and score Δr − ρΔlen; residual: fit Δr + ρΔlen, score Δr"
    )
    length_baseline: bool = Field(
        True, description="also train without the remedies, to report the length bias before and after"
    )
    epochs: float = Field(
        1.0, gt=0, description="train all: passes over an aspect's pairs (heads are fitted to convergence)"
    )
    learning_rate: float = Field(5e-5, gt=0, description="train all: peak learning rate (heads need none)")
    batch_size: Count = Field(16, description="train all: pairs per step and worker")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="train all: compute precision (features are computed in scores.dtype)"
    )
    num_workers: Count = Field(1, description="train all: Ray Train workers per proxy")
    cpus_per_worker: float = Field(1, gt=0, description="train all: CPUs per worker", json_schema_extra=HOW)
    gpus_per_worker: float = Field(0, ge=0, description="train all: GPUs per worker", json_schema_extra=HOW)

    @model_validator(mode="after")
    def _source(self) -> ProxiesConfig:
        if (self.models is None) == (self.base_model is None):
            raise ValueError("set exactly one of base_model (to train proxies) and models (to bring your own)")
        if self.models is not None and len(self.model_aspects) < 2:
            raise ValueError("preference divergence compares aspects, so name a model for at least two")
        return self

    @property
    def model_aspects(self) -> list[str]:
        """The aspects that the ready models score, sorted; empty where models are trained."""
        models = self.models.labels if isinstance(self.models, MultiHeadModel) else self.models
        return sorted(models or {})

    @property
    def folders(self) -> dict[str, str]:
        """The model folders that the section names, by the name of their setting."""
        if self.base_model is not None:
            return {"proxies.base_model": self.base_model}
        if isinstance(self.models, MultiHeadModel):
            return {"proxies.models.path": self.models.path}
        return {f"proxies.models.{aspect}": folder for aspect, folder in (self.models or {}).items()}


class ScoresConfig(Section):
    """How reward models read texts: in scoring, and where a frozen backbone computes features."""

    engine: Literal["vllm", "transformers"] = Field("vllm", description="inference engine; there is no silent switch")
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="passed on to vllm.LLM, for example quantization or enforce_eager"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="weights and activations; auto: bfloat16 where gpus_per_actor is above 0, else float32"
    )
    max_tokens: Annotated[int, Field(ge=8)] = Field(
        512, description="tokens of prompt and response together, in scoring and in training the proxies"
    )
    prompt_tokens: Count | None = Field(
        None, description="most tokens of the prompt, so that its responses share a prefix; null: half of max_tokens"
    )
    keep_prompt: Literal["end", "start"] = Field(
        "end", description="which side of a prompt survives when it is longer than prompt_tokens"
    )
    parity_rows: Count = Field(
        32, description="texts on which every engine is compared with Transformers first", json_schema_extra=HOW
    )
    parity_tolerance: float = Field(
        0.001,
        gt=0,
        description="largest reward difference that the comparison accepts in float32",
        json_schema_extra=HOW,
    )
    parity_rank: Share = Field(
        0.9, description="lowest rank correlation that it accepts in other dtypes", json_schema_extra=HOW
    )
    parity_spread: float = Field(
        0.25,
        gt=0,
        description="largest difference that it accepts in other dtypes, in standard deviations of the reward",
        json_schema_extra=HOW,
    )
    max_failed: Annotated[float, Field(ge=0, le=1)] = Field(
        0.001, description="largest share of texts that may fail to be scored", json_schema_extra=HOW
    )
    step_timeout: float = Field(
        600,
        gt=0,
        description="seconds that a worker may take over some ten thousand tokens, before it is ended and replaced",
        json_schema_extra=HOW,
    )
    max_unknown_tokens: float = Field(
        0.1,
        ge=0,
        le=1,
        description="largest share of the texts' tokens that a proxy's tokenizer may not know",
        json_schema_extra=HOW,
    )
    num_actors: Count | None = Field(
        None, description="scoring actors; null: as many as the cluster holds", json_schema_extra=HOW
    )
    cpus_per_actor: Annotated[float, Field(gt=0)] | None = Field(
        None, description="CPUs per actor; null: a node's CPUs, or 1 beside a GPU", json_schema_extra=HOW
    )
    gpus_per_actor: float = Field(
        0, ge=0, description="GPUs per actor; above 1, vLLM splits a model over them", json_schema_extra=HOW
    )
    memory_share: Share = Field(
        0.8, description="share of the actor's GPU memory that all its engines use", json_schema_extra=HOW
    )
    cpu_cache_gib: float = Field(1.0, gt=0, description="KV cache per engine on CPU, GiB", json_schema_extra=HOW)

    @field_validator("gpus_per_actor")
    @classmethod
    def _whole_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} is above 1 and no whole number; set it to {int(gpus)} or {int(gpus) + 1}")
        return gpus

    @model_validator(mode="after")
    def _engine_fits(self) -> ScoresConfig:
        if self.engine == "transformers" and self.gpus_per_actor > 1:
            raise ValueError(
                f"gpus_per_actor is {self.gpus_per_actor:g}, but only vllm splits a model over GPUs; set it to 1"
            )
        if self.engine == "transformers" and self.engine_args:
            raise ValueError("engine_args are settings of vllm, and engine is transformers; remove them")
        owned = sorted(set(self.engine_args) & set(ENGINE_ARGS_OF_OURS))
        if owned:
            raise ValueError(
                f"engine_args.{owned[0]} has a setting of its own ({ENGINE_ARGS_OF_OURS[owned[0]]}); set that one"
            )
        return self

    @property
    def resolved_dtype(self) -> str:
        """The dtype that ``auto`` stands for; it depends on the config alone, so it can be fingerprinted."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if self.gpus_per_actor > 0 else "float32"


class SelectionConfig(Section):
    """Which pairs are kept (METHOD: eq. 13-15 and the cut)."""

    strategy: Literal["pd", "pd_high", "random"] = Field(
        "pd", description="pd: most negative divergence; pd_high: most positive; random: seeded"
    )
    budget: Share = Field(0.3, description="λ, share of the pairs that is kept, in (0, 1]")
    gamma: Share = Field(0.9, description="γ, the quantile of |margin| that scales to 1")
    rank: Literal["kept", "all", "none"] = Field(
        "kept", description="pairs whose rank is written, by a distributed sort: the kept ones, all, or none"
    )
    method: Literal["radix", "sort"] = Field(
        "radix",
        description="how the cut is found, with the same result: radix passes, or a distributed sort of all pairs",
        json_schema_extra=HOW,
    )


class AlignmentConfig(Section):
    """DPO on the kept pairs with DeepSpeed inside Ray Train."""

    policy: str = Field(
        description="model folder of the policy (an SFT model); also the reference",
        json_schema_extra=HOW,  # its files decide, not where they lie
    )
    beta: float = Field(0.1, gt=0, description="β of DPO")
    epochs: float = Field(1.0, gt=0, description="passes over the kept pairs")
    max_steps: Count | None = Field(None, description="stop after so many optimizer steps; null: by epochs")
    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate")
    batch_size: Count = Field(1, description="pairs per forward pass and worker")
    gradient_accumulation: Count = Field(8, description="forward passes per optimizer step")
    max_tokens: Count = Field(512, description="tokens of prompt and response together")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the kept pairs held out for evaluation")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="compute precision")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="DeepSpeed ZeRO stage")
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="merged over the DeepSpeed config, for example CPU offload"
    )
    save_steps: Count = Field(100, description="optimizer steps between checkpoints", json_schema_extra=HOW)
    num_workers: Annotated[int, Field(ge=2)] = Field(2, description="Ray Train workers, two or more")
    cpus_per_worker: float = Field(1, gt=0, description="CPUs per worker", json_schema_extra=HOW)
    gpus_per_worker: float = Field(0, ge=0, description="GPUs per worker", json_schema_extra=HOW)
    max_failures: int = Field(
        1, ge=0, description="restarts from the last checkpoint after a worker dies", json_schema_extra=HOW
    )

    @model_validator(mode="after")
    def _zero(self) -> AlignmentConfig:
        zero = self.deepspeed.get("zero_optimization", {})
        if not isinstance(zero, dict):
            raise ValueError("deepspeed.zero_optimization must be a mapping of DeepSpeed settings")
        if zero.get("stage", self.zero_stage) != self.zero_stage:
            raise ValueError(
                f"zero_stage is {self.zero_stage} but deepspeed.zero_optimization.stage is {zero['stage']}; "
                "set zero_stage alone"
            )
        if zero.get("offload_param") and self.zero_stage != 3:
            raise ValueError(f"offload_param needs zero_stage 3, got {self.zero_stage}; raise it or drop offload_param")
        if zero.get("offload_optimizer") and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, got 0; raise it or drop offload_optimizer")
        if self.zero_stage == 3 and zero.get("stage3_gather_16bit_weights_on_model_save") is False:
            raise ValueError(
                "zero_stage 3 needs stage3_gather_16bit_weights_on_model_save to write the policy; remove that line"
            )
        return self


class RunConfig(Section):
    """One run: five stages and the folder that they write to."""

    run: str = Field("runs/my-run", description="run folder: a path that every node mounts, or s3://bucket/folder")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every random choice")
    cluster: ClusterConfig = ClusterConfig()
    corpus: CorpusConfig
    proxies: ProxiesConfig
    scores: ScoresConfig = ScoresConfig()
    selection: SelectionConfig = SelectionConfig()
    alignment: AlignmentConfig | None = Field(None, description="leave the section out to stop at the selection")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        aspects, models = self.corpus.aspects, self.proxies.model_aspects
        if aspects and models and set(aspects) - set(models):
            missing = ", ".join(sorted(set(aspects) - set(models)))
            raise ValueError(
                f"proxies.models has no model for {missing}; add it or remove the aspect from corpus.aspects"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply ``--set key=value`` overrides and validate.

    Relative paths are taken from the current folder and made absolute, so that a job on another node reads
    the same files.

    Raises:
        UserError: the file cannot be read, or a value breaks a rule; the message holds the cure.
    """
    try:
        data = yaml.safe_load(_read_text(str(path)))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = "mend it" if holds_secret(str(error)) else " ".join(str(error).split())  # it quotes the line
        raise UserError(f"{path} is not readable YAML: {reason}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no settings; write a fresh one with: pdray init > {path}")
    return build_config(data, overrides)


def _read_text(path: str) -> str:
    if is_remote(path):  # as `pdray submit` writes it beside a run on object storage
        from pdray.storage import StoragePath

        with contextlib.suppress(FileNotFoundError):
            return StoragePath(path).read_bytes().decode("utf-8")
    elif Path(path).is_file():
        return Path(path).read_text(encoding="utf-8")
    raise UserError(f"no config file at {path}; write one with: pdray init > run.yaml")


def build_config(data: dict[str, Any], overrides: list[str] | None = None) -> RunConfig:
    """Validate a mapping as :func:`load_config` does, without reading a file."""
    data = copy.deepcopy(data)
    for override in overrides or []:
        _apply_override(data, override)
    _refuse_secrets(data)
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(_sentence(item) for item in error.errors())) from None
    config = _with_absolute_paths(config)
    _check_paths(config)
    return config


def _refuse_secrets(data: dict[str, Any]) -> None:
    if names := list(dict.fromkeys(_secrets("", data))):
        raise UserError(
            "\n".join(
                f"{name} holds a key or password, which would stand in manifests and logs; take it out and give the "
                "credentials by environment variables or a profile of the storage"
                for name in names
            )
        )


def _secrets(name: str, value: Any) -> Iterator[str]:
    """Names of the settings with a secret in them."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _secrets(f"{name}.{key}".lstrip("."), child)
    elif isinstance(value, list):
        for child in value:
            yield from _secrets(name, child)
    elif isinstance(value, str) and holds_secret(value):
        yield name


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    shown = without_secret(override)
    if not separator or not key or holds_secret(key):
        raise UserError(f"--set {shown} has no value; write it as --set selection.budget=0.1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {shown} is not a YAML value; quote it, for example --set run='a b'") from None
    *parents, leaf = key.split(".")
    for parent in parents:
        child = data.get(parent)
        if child is None:
            child = data[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {shown}: {parent} is a value, not a section; shorten the key")
        data = child
    # YAML 1.1 reads 1e-5 as text; pydantic then turns it into the number that the field asks for.
    data[leaf] = value


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, or None if it holds a value."""
    candidates = (field.annotation, *get_args(field.annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, Section)), None)


def _field_at(location: tuple[Any, ...]) -> tuple[type[Section], Any]:
    section: type[Section] = RunConfig
    field = None
    for key in location:
        field = section.model_fields.get(str(key))
        section = section_of(field) or section if field else section
    return section, field


def _sentence(error: Any) -> str:
    location = tuple(part for part in error["loc"] if part not in ("str", "list[str]", MULTI_HEAD, MODEL_EACH))
    name = ".".join(str(part) for part in location) or "the configuration"
    section, field = _field_at(location)
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    cure = f" ({field.description})" if field is not None and field.description else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), section.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(section.model_fields)}"
        return f"{name} is not a setting; {hint}"
    if error["type"] == "missing":
        return f"{name} is missing; set it{cure}"
    if error["type"] == "value_error":
        return f"{name}: {message}"
    return f"{name} is {error['input']!r} but should {message}; change it{cure}"


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    proxies, alignment = config.proxies, config.alignment
    models: Any = proxies.models
    if isinstance(models, MultiHeadModel):
        models = models.model_copy(update={"path": absolute(models.path)})
    elif models is not None:
        models = {aspect: absolute(path) for aspect, path in models.items()}
    base_model = absolute(proxies.base_model) if proxies.base_model else None
    patterns = [absolute(pattern) for pattern in config.corpus.patterns] or None
    hub = config.corpus.hub
    hub = absolute(hub) if hub and Path(hub).is_dir() else hub  # as datasets does: a folder of that name comes first
    return config.model_copy(
        update={
            "run": absolute(config.run),
            "corpus": config.corpus.model_copy(update={"path": patterns, "hub": hub}),
            "proxies": proxies.model_copy(update={"models": models, "base_model": base_model}),
            "alignment": alignment and alignment.model_copy(update={"policy": absolute(alignment.policy)}),
        }
    )


def _check_paths(config: RunConfig) -> None:
    if config.run.startswith("file:"):
        raise UserError(f"run is {config.run}, but a local run folder is a plain path; leave file:// out")
    if is_remote(config.run) and config.alignment:
        raise UserError(
            f"run is {config.run}, but alignment writes its checkpoints to a path that every node mounts; set run to "
            "one, or leave the alignment section out"
        )
    for pattern in config.corpus.patterns:
        if not is_remote(pattern) and not expand(pattern):
            raise UserError(f"corpus.path matches no file: {pattern}; correct the path or the glob")
    models = config.proxies.folders
    if config.alignment:
        models["alignment.policy"] = config.alignment.policy
    for name, path in models.items():
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"{name} is {path}, which holds no config.json; name a Hugging Face model folder")


def fingerprinted(section: Section) -> dict[str, Any]:
    """The settings of a section that decide its result, as plain values (fields marked HOW left out)."""
    how = {
        name
        for name, field in type(section).model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("fingerprint") is False
    }
    return section.model_dump(mode="json", exclude=how)
