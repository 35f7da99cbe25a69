"""PD: the pairs that the other aspects agree with most (eq. 15 and theorem 3.5)."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(lambda table: table.divergence, "the most negative divergence, the paper's method (eq. 15)")
