"""Preference data selection at cluster scale: preference divergence, exact cut, DPO."""

__version__ = "0.1.0"
