"""The longest chosen responses, the rival that a length bias favours ("Long Is More for Alignment", ICML 2024)."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: -table.lengths[0].astype(float), 'the longest chosen responses in tokens ("Long Is More", ICML 2024)'
)
