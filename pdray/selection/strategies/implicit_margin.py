"""The largest implicit reward margin of DPO first ("Less is More", Deng et al., NeurIPS 2025, arXiv 2502.14560).

The policy is one that DPO has trained a little, the reference the model that it was trained from. β > 0 multiplies
every margin and changes no order, so it is left out.
"""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: -table.logps.implicit_margin,
    'the largest implicit reward margin of DPO ("Less is More", NeurIPS 2025)',
    logps=("policy", "reference"),
)
