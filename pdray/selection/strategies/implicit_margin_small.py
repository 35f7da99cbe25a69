"""The smallest implicit reward gap of DPO first (Qi et al., "Difficulty-Based Preference Data Selection by DPO Implicit
Reward Gap", arXiv 2508.04149), which takes such pairs for the hardest.

As in the authors' code the gap has a sign: pairs that the policy has the wrong way round come before those that it
cannot tell apart.
"""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: table.logps.implicit_margin,
    "the smallest implicit reward gap of DPO, with its sign (arXiv 2508.04149)",
    logps=("policy", "reference"),
)
