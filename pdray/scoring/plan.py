"""All that the workers of the scoring stage need to know; picklable."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pdray.scoring.encode import PairTokenizer
from pdray.scoring.engine import EngineLoader, EngineOptions, RewardEngine
from pdray.scoring.proxies import Proxy, ProxySet
from pdray.scoring.resources import Placement


@dataclass(frozen=True)
class ScoringPlan:
    """The stage, resolved.

    Attributes:
        proxies: the reward models.
        tokenizer: text to token ids.
        options: how an actor's engines are loaded; ``memory_share`` is that of all in an actor's part of a GPU.
        load: loads one reward model.
        placement: what an actor and a task ask Ray for.
        max_unknown_tokens: largest share of tokens that a tokenizer may not know.
    """

    proxies: ProxySet
    tokenizer: PairTokenizer
    options: EngineOptions
    load: EngineLoader
    placement: Placement
    max_unknown_tokens: float

    def load_proxy(self, proxy: Proxy) -> RewardEngine:
        """One of the engines that an actor holds side by side."""
        # The config speaks of the actor's part of a GPU, engines of the whole; without a GPU there is nothing to part.
        gpus = min(1, self.placement.actor_gpus) or 1
        share = self.options.memory_share * gpus / len(self.proxies.proxies)
        return self.load(proxy.path, replace(self.options, memory_share=share))
