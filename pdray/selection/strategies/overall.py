"""OVA: every pair, labelled by the overall preference that the corpus brings, whatever aspect labelled it."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: table.divergence,
    "every pair, labelled anew by the overall preference, the paper's OVA",
    keeps_all=True,
    label=lambda table: table.overall_gap,
    label_of="overall",
)
