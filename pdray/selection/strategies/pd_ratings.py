"""PD (rati.): the divergence of the true aspect ratings, scaled like the proxies' margins (eq. 13-15)."""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: table.divergence,
    "the most negative divergence of the true aspect ratings, the paper's PD (rati.)",
    margins="ratings",
)
