"""The largest gap of perplexities under the reference first, after "Clear Preferences Leave Traces" (Diwan et al.,
arXiv 2501.15109): where the reference already finds the chosen response likelier, the preference is a clear one.

The gap is that of the mean log-probabilities of a token, log PPL(y_l|x) − log PPL(y_w|x): length does not count.
"""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: -table.logps.gap_per_token("reference"),
    "the largest gap of perplexities under the reference (after arXiv 2501.15109)",
    logps=("reference",),
)
