"""The whole run as validated pydantic models.

This package imports neither Ray nor torch (a test proves it), so that a wrong configuration is refused before anything
starts.
"""

from pdray.config.alignment import AlignmentConfig
from pdray.config.corpus import ColumnNames, CorpusConfig
from pdray.config.crossfit import CrossfitConfig
from pdray.config.engine import EngineConfig
from pdray.config.evaluation import EndpointConfig, EvaluationConfig, GenerationConfig, RewardJudgeConfig
from pdray.config.load import ConfigError, build_config, load_config
from pdray.config.logprobs import LogprobsConfig
from pdray.config.lora import LoraConfig
from pdray.config.proxies import MultiHeadModel, ProxiesConfig
from pdray.config.run import ClusterConfig, RunConfig, SelectionConfig
from pdray.config.scores import ScoresConfig
from pdray.config.section import HOW, Section, alike, fingerprinted, section_of

__all__ = [
    "HOW",
    "AlignmentConfig",
    "ClusterConfig",
    "ColumnNames",
    "ConfigError",
    "CorpusConfig",
    "CrossfitConfig",
    "EndpointConfig",
    "EngineConfig",
    "EvaluationConfig",
    "GenerationConfig",
    "LogprobsConfig",
    "LoraConfig",
    "MultiHeadModel",
    "ProxiesConfig",
    "RewardJudgeConfig",
    "RunConfig",
    "ScoresConfig",
    "Section",
    "SelectionConfig",
    "alike",
    "build_config",
    "fingerprinted",
    "load_config",
    "section_of",
]
