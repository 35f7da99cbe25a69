"""RAF: one reward model of all aspects together, the largest margins first, as the paper compares with."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: -table.unified_margins,
    "the largest margin of one reward model of all aspects together, the paper's RAF",
    unified=True,
)
