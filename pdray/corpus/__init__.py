"""Reads preference data and turns it into checked pairs, one aspect each."""
