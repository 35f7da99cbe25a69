"""PD (mid): the pairs around the median of the divergence."""

import numpy as np

from pdray.selection.strategy import Statistic, Strategy

STRATEGY = Strategy(
    lambda table: np.abs(table.divergence - table.statistics["median"]),
    "the divergence nearest to its median over the corpus, the paper's PD (mid)",
    statistics={"median": Statistic("quantile", lambda table: table.divergence, 0.5)},
)
