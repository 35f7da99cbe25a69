"""The embedded demo: a seeded corpus, small models built on the spot, and every stage on them, for three selections."""

from pdray.demo.run import run_demo

__all__ = ["run_demo"]
