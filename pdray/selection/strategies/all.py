"""ALL: every pair, whatever the budget."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(lambda table: table.divergence, "every pair, whatever the budget, the paper's ALL", keeps_all=True)
