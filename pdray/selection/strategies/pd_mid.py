"""PD (mid): the pairs around the median of the divergence."""

import numpy as np

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: np.abs(table.divergence - table.median),
    "the divergence nearest to its median over the corpus, the paper's PD (mid)",
    needs_median=True,
)
