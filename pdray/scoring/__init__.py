"""Scores every pair with the proxy reward models."""
