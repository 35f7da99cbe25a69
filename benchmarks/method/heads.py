"""Linear heads on a frozen encoder: texts are read once, and heads fitted to that as often as is asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.proxies import World
from pdray.config import ProxiesConfig
from pdray.engines.encode import ModelEncoder
from pdray.proxies.features import FeatureWriter
from pdray.proxies.forms import Form
from pdray.proxies.linear import FittedHead, HeadJob, fit_aspect
from pdray.proxies.pairs import AspectPairs, candidates, choose_pairs, seen_shares
from pdray.proxies.readings import Reading, best
from pdray.shards import ShardedFolder
from pdray.storage import StoragePath
from pdray.texts import read_texts


class LinearJob(HeadJob):
    """A head without a layer of tanh units, whose fits take minutes where texts are many."""

    def forms(self, num_texts: int) -> list[Form]:
        """The simplest."""
        return super().forms(num_texts)[:1]


@dataclass(frozen=True)
class TextFeatures:
    """What a frozen encoder makes of t texts.

    Attributes:
        readings: both.
        values: (t, H) float32, side by side.
        lengths: (t,) int64, tokens of the responses.
        shards: where they are written.
    """

    readings: list[Reading]
    values: np.ndarray
    lengths: np.ndarray
    shards: ShardedFolder

    def of(self, reading: Reading) -> np.ndarray:
        """The features of one reading."""
        return self.values[:, reading.first :][:, : reading.num_features]


class HeadWorld(World):
    """A corpus whose proxies are linear heads, chosen and fitted as the proxies stage does."""

    def choose(self, proxies: ProxiesConfig) -> list[AspectPairs]:
        """Which pairs each head is fitted to, and which are held out."""
        counts = {aspect: int((self.own == number).sum()) for number, aspect in enumerate(self.aspects)}
        return choose_pairs(lambda asks: [candidates(self.corpus, 0, asks, self.seed)], counts, proxies)

    def read(self, folder: StoragePath) -> TextFeatures:
        """Read every text in both ways, and write what was read as the proxies stage does."""
        readings, values, lengths = self.read_both_ways(folder)
        shards = ShardedFolder(folder, "features", 1)
        facts = ModelEncoder([(folder / "together").local], self.rule).encode(read_texts(self.corpus, 0)).facts
        tables, _ = FeatureWriter()(0, np.arange(len(values)), values.astype(np.float32), facts)
        shards.write(0, tables, 0, {})
        return TextFeatures(readings, values.astype(np.float32), lengths, shards)

    def fit(
        self, chosen: list[AspectPairs], proxies: ProxiesConfig, features: TextFeatures
    ) -> tuple[Reading, list[FittedHead]]:
        """Heads of every aspect for both readings; the reading that cross-validation takes, and its heads."""
        held_out = pa.concat_tables([one.held_out for one in chosen])
        fitted = {
            reading.name: [
                fit_aspect(LinearJob(one, features.shards, reading, proxies, seen, len(chosen), self.seed, held_out))
                for one, seen in zip(chosen, seen_shares(chosen), strict=True)
            ]
            for reading in features.readings
        }
        losses = {
            name: float(np.mean([min(one.facts["validation_loss"].values()) for one in heads]))
            for name, heads in fitted.items()
        }
        taken = best(losses)
        print(losses, taken, flush=True)
        return next(one for one in features.readings if one.name == taken), fitted[taken]

    def _heads(
        self, chosen: list[AspectPairs], proxies: ProxiesConfig, folder: StoragePath
    ) -> tuple[np.ndarray, np.ndarray, list[float]]:
        features = self.read(folder)
        reading, heads = self.fit(chosen, proxies, features)
        rewards = np.concatenate([one.head.rewards(features.of(reading)) for one in heads], axis=1)
        return rewards, features.lengths, [one.facts["held_out_accuracy"] for one in heads]
