"""PD (high): the opposite of the method, which must do worse."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(lambda table: -table.divergence, "the most positive divergence, the paper's PD (high)")
