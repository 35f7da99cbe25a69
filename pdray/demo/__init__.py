"""The embedded demo: a seeded corpus, small models built on the spot, and the stages on them."""

from pdray.demo.run import run_demo

__all__ = ["run_demo"]
