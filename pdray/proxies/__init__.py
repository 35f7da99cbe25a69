"""Trains one proxy reward model per aspect."""
