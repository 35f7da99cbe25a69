"""The smallest validation loss first: Selective DPO ("Principled Data Selection for Alignment: The Hidden Risks of
Difficult Examples", Gao et al., ICML 2025, arXiv 2502.09650).

A pair is hard where policies that DPO trained on other pairs have a large loss on it. The authors train on one half and
judge the other, both ways, three times, and keep the half with the smallest mean loss; so does the stage ``crossfit``
with its defaults and a budget of 0.5, only that a prompt is never on both sides. They also train in the order of that
loss, which the alignment here does not.
"""

from pdray.selection.strategy import Strategy

STRATEGY = Strategy(
    lambda table: table.validation_losses,
    "the smallest validation loss of cross-fitted DPO runs (Selective DPO, ICML 2025)",
    crossfit=True,
)
