"""AVG: every pair, labelled by the mean of the aspects' true ratings.

The mean is computed here. UltraFeedback's own ``overall_score`` is wrong in hundreds of rows and never read.
"""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: table.divergence,
    "every pair, labelled anew by the mean of the aspects' true ratings, the paper's AVG",
    keeps_all=True,
    label=lambda table: table.mean_rating_gap,
    label_of="ratings",
)
