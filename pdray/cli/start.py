"""What one begins with: a config, the demo, models from packages, the version."""

from __future__ import annotations

import argparse

from pdray import __version__
from pdray.cli.parser import Commands, add_command
from pdray.errors import EXIT_OK


def add(commands: Commands) -> None:
    """Add ``init``, ``demo``, ``models`` and ``version``."""
    add_command(commands, "init", _init, only_prints=True, help="print a commented configuration")

    demo = add_command(commands, "demo", _demo, help="run the stages on an embedded corpus")
    demo.add_argument("--folder", default="runs/demo", help="run folder (default: runs/demo)")
    demo.add_argument("--write-only", action="store_true", help="write corpus, models and run.yaml, and stop")
    demo.set_defaults(run_folder=lambda args: args.folder)

    models = add_command(
        commands, "models", _models, help="build a model folder from an installed package, without a hub"
    )
    models.add_argument("name", choices=("minilm", "smollm2"), help="minilm: proxy backbone; smollm2: policy")
    models.add_argument("folder", help="where to write it")

    add_command(commands, "version", _version, only_prints=True, help="print the version")


def _init(args: argparse.Namespace) -> int:
    from pdray.template import render

    print(render(), end="")
    return EXIT_OK


def _demo(args: argparse.Namespace) -> int:
    from pdray.demo import run_demo

    run_demo(args.folder, write_only=args.write_only)
    return EXIT_OK


def _models(args: argparse.Namespace) -> int:
    from pdray.models.packaged import build

    build(args.name, args.folder)
    return EXIT_OK


def _version(args: argparse.Namespace) -> int:
    print(f"pdray {__version__}")
    return EXIT_OK
