"""The command line. One file per verb; a verb's heavy imports happen only when it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from edge_dp._version import VERSION
from edge_dp.cli import (
    bundle,
    data,
    devices,
    doctor,
    emulator,
    export,
    label,
    report,
    run,
    sensitivity,
    sensors,
    simulate,
    stages,
    train,
    train_teacher,
    validate,
)
from edge_dp.errors import EdgeDpError

_VERBS = (
    doctor,
    sensors,
    data,
    simulate,
    label,
    train,
    train_teacher,
    sensitivity,
    export,
    stages,
    validate,
    report,
    bundle,
    run,
    devices,
    emulator,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="edge-dp",
        description="Distil, quantise, convert and prove dual-pixel networks for phones.",
        epilog="Exit codes: 0 done, 1 a threshold was missed, 2 bad input or usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"edge-dp {VERSION}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in _VERBS:
        name = module.__name__.rsplit(".", 1)[-1].replace("_", "-")
        verb = verbs.add_parser(name, help=module.SUMMARY, description=module.DESCRIPTION)
        module.add_arguments(verb)
        verb.set_defaults(call=module.call)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.call(options)
    except EdgeDpError as error:
        print(f"edge-dp: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("edge-dp: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code
