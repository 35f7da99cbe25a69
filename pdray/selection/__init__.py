"""Preference divergence and the exact cut."""
