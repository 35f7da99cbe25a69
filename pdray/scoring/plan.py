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
        options: how an actor's engines are loaded; ``memory_share`` is that of all together.
        load: loads one reward model.
        placement: what an actor and a task ask Ray for.
    """

    proxies: ProxySet
    tokenizer: PairTokenizer
    options: EngineOptions
    load: EngineLoader
    placement: Placement

    def load_proxy(self, proxy: Proxy) -> RewardEngine:
        """One of the engines that an actor holds side by side."""
        gpu = min(1.0, self.placement.actor_gpus) or 1.0
        share = self.options.memory_share * gpu / len(self.proxies.proxies)
        return self.load(proxy.path, replace(self.options, memory_share=share))
