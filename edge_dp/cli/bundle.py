"""``edge-dp bundle``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dp.bundle.check import BundleCheck
    from edge_dp.bundle.diff import BundleDiff
    from edge_dp.bundle.manifest import Bundle, TensorSpec

SUMMARY = "check a bundle, compare two, show what one says of itself"
DESCRIPTION = (
    "Work with bundles without running their artifacts; edge-dp validate runs them. Exit code 1 where a check finds something or "
    "two bundles differ, 2 where there is no readable bundle."
)
_SHOWN = 40  # differences of one kind on the terminal; JSON has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="examine manifest, files, golden arrays and what artifacts say of themselves",
        description=(
            "Check the manifest against its schema; that every file is there, as it was written, and none besides; that golden "
            "arrays are finite and of the right shape; that each artifact's metadata equal the manifest. Exit code 1 where "
            "something is wrong, 2 where the manifest cannot be read."
        ),
    )
    check.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    check.add_argument(
        "--no-cards", action="store_true", help="leave out the metadata in the artifacts, which needs their toolchains"
    )
    check.set_defaults(action=_check)
    diff = actions.add_parser(
        "diff",
        help="what differs between two bundles",
        description=(
            "Compare fields, artifacts and golden vectors of two bundles. When they were written is passed over. Exit code 1 "
            "where they differ."
        ),
    )
    diff.add_argument("first", type=Path, help="a bundle")
    diff.add_argument("second", type=Path, help="another")
    diff.set_defaults(action=_diff)
    show = actions.add_parser(
        "show",
        help="what a bundle says of itself",
        description="Print inputs, outputs, artifacts, golden cases, metrics, licences and versions of a bundle.",
    )
    show.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    show.set_defaults(action=_show)
    schema = actions.add_parser(
        "schema",
        help="the JSON Schema of manifests",
        description="Print the JSON Schema (draft 2020-12) that manifest.json follows, to check one without edge_dp.",
    )
    schema.set_defaults(action=_schema)
    for action in (check, diff, show):
        action.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    code: int = options.action(options)
    return code


def _check(options: argparse.Namespace) -> int:
    import dataclasses

    from edge_dp.bundle.check import check_bundle
    from edge_dp.converters.cards import card_readers

    found = check_bundle(options.bundle, None if options.no_cards else card_readers())
    if options.json:
        _print_json({"passed": found.passed, **dataclasses.asdict(found)})
    else:
        _print_check(found)
    return 0 if found.passed else 1


def _diff(options: argparse.Namespace) -> int:
    import dataclasses

    from edge_dp.bundle.diff import diff_bundles
    from edge_dp.bundle.manifest import read_bundle

    found = diff_bundles(read_bundle(options.first), read_bundle(options.second))
    if options.json:
        _print_json({"same": found.same, **dataclasses.asdict(found)})
    else:
        _print_diff(found)
    return 0 if found.same else 1


def _show(options: argparse.Namespace) -> int:
    from edge_dp.bundle.manifest import read_bundle

    bundle = read_bundle(options.bundle)
    if options.json:
        _print_json(bundle.manifest.to_json())
    else:
        _print_bundle(bundle)
    return 0


def _schema(options: argparse.Namespace) -> int:
    import json

    from edge_dp.bundle.manifest import manifest_schema

    print(json.dumps(manifest_schema(), indent=2))
    return 0


def _print_check(found: BundleCheck) -> None:
    from edge_dp.cli.tables import printable

    for problem in found.problems:
        print(f"wrong: {printable(problem)}")
    for text in found.unchecked:
        print(f"unchecked: {printable(text)}")
    print(
        f"{found.files} files as they were written, {found.arrays} golden arrays read, {found.cards} artifacts agree with the "
        f"manifest, {len(found.problems)} problem(s)"
    )


def _print_diff(found: BundleDiff) -> None:
    from edge_dp.cli.tables import console, plain_table

    output = console()
    if found.fields:
        rows = [(entry.field, _short(entry.first), _short(entry.second)) for entry in found.fields]
        output.print(plain_table("Fields", ("field", "first", "second"), rows[:_SHOWN]))
    if found.artifacts:
        columns = ("artifact", "first KB", "second KB", "files that differ")
        sized = [
            (entry.artifact, _kilobytes(entry.first_bytes), _kilobytes(entry.second_bytes), ", ".join(entry.files))
            for entry in found.artifacts
        ]
        output.print(plain_table("Artifacts", columns, sized))
    if found.golden:
        worst = sorted(found.golden, key=lambda entry: -entry.largest)[:_SHOWN]
        measured = [
            (
                entry.case,
                entry.what,
                entry.tensor,
                f"{entry.largest:.3g}",
                "-" if entry.steps is None else f"{entry.steps:.3g}",
            )
            for entry in worst
        ]
        output.print(plain_table("Golden vectors", ("case", "of", "tensor", "largest difference", "steps"), measured))
    print(
        f"{len(found.fields)} field(s), {len(found.artifacts)} artifact(s) and {len(found.golden)} of {found.compared} golden "
        f"array(s) differ"
    )


def _print_bundle(bundle: Bundle) -> None:
    from edge_dp.cli.tables import artifact_table, console, plain_table

    manifest, output = bundle.manifest, console()
    columns = ("tensor", "shape", "layout", "unit", "channels", "range", "step", "meaning")
    specs = [("in", spec) for spec in manifest.inputs] + [("out", spec) for spec in manifest.outputs]
    output.print(plain_table(manifest.model, ("", *columns), [(side, *_tensor_cells(s)) for side, s in specs]))
    artifact_table(bundle)
    golden = [(case.name, case.kind, ", ".join(case.outputs), str(len(case.artifacts))) for case in manifest.golden]
    output.print(plain_table("Golden cases", ("case", "kind", "outputs of", "artifacts"), golden))
    said: list[tuple[str, str]] = [
        ("created", manifest.created),
        ("sensor", str((manifest.sensor or {}).get("name", "-"))),
    ]
    if manifest.preprocessing is not None:
        said += [(f"before inference {i}", step) for i, step in enumerate(manifest.preprocessing.steps, 1)]
    for title in ("metrics", "licences", "training", "versions", "host"):
        said += [(f"{title}: {name}", _short(value)) for name, value in getattr(manifest, title).items()]
    output.print(plain_table("About", ("", ""), said))


def _tensor_cells(spec: TensorSpec) -> tuple[str, ...]:
    shape = "x".join(map(str, spec.shape)) or "scalar"
    values = "-" if spec.value_range is None else "{:g} to {:g}".format(*spec.value_range)
    step = "-" if spec.scale is None else f"{spec.scale:.5g}"
    return (spec.name, shape, spec.layout, spec.unit, ", ".join(spec.channels), values, step, spec.meaning)


def _kilobytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1000:.0f}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, allow_nan=False))
