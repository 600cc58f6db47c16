"""``edge-dp sensors``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dp.cli.arguments import two_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_dp.data import DpSample
    from edge_dp.sensors import PsfField, SensorProfile
    from edge_dp.sensors.fit import SensorFit

SUMMARY = "list, show and fit sensor profiles"
DESCRIPTION = (
    "Sensor profiles say how the files of a dual-pixel sensor are read and what its optics are: each number with its source, and "
    "what is unknown marked so."
)

_LIST_HELP = """\
CAPTURES is a CSV file with a header, or a JSON list of objects: left, right, depth (an image, or the metres of a flat
target), unit (m, mm or metres per level), max_m (depth from here on does not hold). Paths are relative to the list.
"""
_UNITS = {
    "focal_length_m": "m",
    "pitch_um": "um",
    "focus_m": "m",
    "orientation": "degrees",
    "native_sampling": "samples per sample of the file, x and y",
    "alpha": "disparity per circle of confusion",
    "noise": "photo-electrons",
    "black_level": "levels",
    "white_level": "levels",
    "bit_depth": "bits",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    known = actions.add_parser("list", help="profiles that come with edge_dp")
    known.set_defaults(action=_list)
    one = actions.add_parser("show", help="every number of a profile, with unit and source")
    one.add_argument("sensor", help="name, or JSON file of your own")
    one.set_defaults(action=_show)
    fit = actions.add_parser(
        "fit",
        help="estimate alpha, focus distance, left/right gain and point-spread functions, and write a profile",
        description="Fit a profile to captures of known depth (alpha, focus distance, left/right gain), to measured kernels or a "
        "dot chart (point-spread functions), or to both.",
        epilog=_LIST_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fit.set_defaults(action=_fit)
    fit.add_argument("captures", type=Path, nargs="?", help="list of captures of known depth (.csv or .json)")
    fit.add_argument(
        "--dataset",
        nargs=2,
        metavar=("NAME", "ROOT"),
        help="captures of a data set with metric depth instead, such as dp119: those at the profile's f-number",
    )
    fit.add_argument(
        "--kernels", type=Path, nargs=2, metavar=("LEFT", "RIGHT"), help="measured kernels (N, K, K) as .npy"
    )
    fit.add_argument(
        "--grid", type=two_numbers, metavar="ROWSxCOLUMNS", help="grid over the field that the kernels lie on"
    )
    fit.add_argument("--field", type=two_numbers, metavar="WIDTHxHEIGHT", help="field that the grid covers, px")
    fit.add_argument("--dot-chart", type=Path, nargs=2, metavar=("LEFT", "RIGHT"), help="views of a chart of dots")
    fit.add_argument(
        "--blur",
        type=float,
        default=0.0,
        help="sigma of what blurs in focus too, px, in the kernels (default: %(default)s)",
    )
    fit.add_argument("--sensor", required=True, help="profile to start from: levels, focal length, f-number, pitch")
    fit.add_argument("--out", type=Path, required=True, help="JSON file to write")
    fit.add_argument("--name", help="of the new profile (default: the file's)")
    fit.add_argument("--max-disparity", type=float, default=4.0, help="px searched either way (default: %(default)s)")
    fit.add_argument("--uniform-alpha", action="store_true", help="take alpha as the same over the field")
    for action in (known, one, fit):
        action.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    code: int = options.action(options)
    return code


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table

    from edge_dp.cli.tables import console
    from edge_dp.sensors import list_sensors, load_sensor

    profiles = [load_sensor(name) for name in list_sensors()]
    if options.json:
        _print_json([{"name": p.name, "description": p.description} for p in profiles])
        return 0
    table = Table(title="Sensor profiles")
    for column in ("name", "files", "focal length mm", "f-number", "pitch um", "alpha", "description"):
        table.add_column(column, justify="left" if column in ("name", "files", "description") else "right")
    for p in profiles:
        focal_length = None if p.focal_length_m is None else 1000 * p.focal_length_m
        numbers = ("-" if value is None else f"{value:g}" for value in (focal_length, p.f_number, p.pitch_um, p.alpha))
        table.add_row(p.name, f"{p.bit_depth} bit {p.transfer}, axis {p.dp_axis}", *numbers, p.description)
    console().print(table)
    return 0


def _show(options: argparse.Namespace) -> int:
    from rich.table import Table

    from edge_dp.cli.tables import console
    from edge_dp.sensors import load_sensor

    sensor = load_sensor(options.sensor)
    data = sensor.to_dict()
    if options.json:
        _print_json(data)
        return 0
    table = Table(title=sensor.description, show_lines=True)
    for column in ("field", "value", "unit", "source"):
        table.add_column(column, overflow="fold")
    for field, value in data.items():
        if field in ("schema", "name", "description", "sources"):
            continue
        unit = "" if value is None else _UNITS.get(field, "")
        table.add_row(field, _text(value), unit, sensor.sources.get(field, ""), style="dim" if value is None else None)
    console().print(table)
    return 0


def _fit(options: argparse.Namespace) -> int:
    from edge_dp.errors import InputError
    from edge_dp.files import json_dump
    from edge_dp.sensors import SensorProfile, load_sensor
    from edge_dp.sensors.fit_psf import alpha_field_of

    known_depth = (options.captures is not None) + (options.dataset is not None)
    kernels = (options.kernels is not None) + (options.dot_chart is not None)
    if known_depth > 1 or kernels > 1 or known_depth + kernels == 0:
        raise InputError(
            "sensors fit: expected captures of known depth (a list or --dataset), kernels (--kernels or --dot-chart), or one of "
            "either, found none or two of a kind. See --help."
        )
    base = load_sensor(options.sensor)
    sensor, fit = base, None
    if known_depth:
        fit = _fit_captures(options, base)
        sensor = fit.sensor
    if kernels:
        psf, source = _fit_kernels(options, base)
        sensor = replace(sensor, psf=psf, sources=sensor.sources | {"psf": source})
        if fit is None:  # captures of several depths tell more of it
            varies = {"alpha_field": f"{source} Distance of the centroids, over its mean."}
            sensor = replace(sensor, alpha_field=alpha_field_of(psf), sources=sensor.sources | varies)
    data = replace(sensor, name=options.name or options.out.stem).to_dict()
    SensorProfile.from_dict(data, str(options.out))
    json_dump(data, options.out)
    if options.json:
        _print_json({"profile": str(options.out), "fit": None if fit is None else _fit_json(fit)})
        return 0
    if fit is not None:
        _print_fit(fit)
    print(options.out)
    return 0


def _fit_captures(options: argparse.Namespace, base: SensorProfile) -> SensorFit:
    from edge_dp.cli.progress import progress_bars
    from edge_dp.data.registry import open_dataset
    from edge_dp.sensors.captures import list_captures, read_captures
    from edge_dp.sensors.fit import FitConfig, fit_sensor
    from edge_dp.sensors.matching import MatchConfig

    config = FitConfig(
        match=MatchConfig(max_disparity_px=options.max_disparity), field_order=0 if options.uniform_alpha else 2
    )
    samples: Iterator[DpSample]
    if options.dataset is not None:
        source, root = options.dataset
        captures = open_dataset(source, root, sensor=base)
        samples, total = (s for s in captures if s.sensor.f_number == base.f_number), len(captures)
    else:
        samples, total = read_captures(options.captures, base), len(list_captures(options.captures))
        source = options.captures.name
    done = 0

    def advance(name: str) -> None:
        nonlocal done
        done += 1
        bars("match", done, total, name)

    with progress_bars() as bars:
        return fit_sensor(samples, base, config, source, advance)


def _fit_kernels(options: argparse.Namespace, base: SensorProfile) -> tuple[PsfField, str]:
    """The fitted field and where it comes from."""
    from edge_dp.data import read_pair
    from edge_dp.errors import InputError
    from edge_dp.sensors.fit_psf import fit_psf_field, grid_positions, kernels_from_dot_chart

    if options.dot_chart is not None:
        where = " and ".join(path.name for path in options.dot_chart)
        sample = read_pair(options.dot_chart[0], options.dot_chart[1], base)
        height, width = sample.left.shape[1:]
        dots = kernels_from_dot_chart(sample.left.mean(axis=0), sample.right.mean(axis=0), where=where)
        psf = fit_psf_field(dots.left, dots.right, dots.positions, (width, height), blur_px=options.blur)
        return psf, f"Fit by edge-dp sensors fit on {len(dots.left)} dots of a chart ({where})."
    if options.grid is None or options.field is None:
        raise InputError("--kernels: expected --grid and --field with it, found none. Say where the kernels lie.")
    left, right = (_load_kernels(path) for path in options.kernels)
    positions = grid_positions(*options.grid)
    psf = fit_psf_field(left, right, positions, options.field, blur_px=options.blur)
    names = " and ".join(path.name for path in options.kernels)
    return psf, f"Fit by edge-dp sensors fit on {len(left)} measured kernels per view ({names})."


def _load_kernels(path: Path) -> Any:
    import numpy as np

    from edge_dp.errors import InputError

    try:
        kernels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: expected a readable .npy file, found: {error}. Check the path.") from error
    if not (isinstance(kernels, np.ndarray) and np.issubdtype(kernels.dtype, np.floating)):
        raise InputError(f"{path}: expected an array of floating-point kernels (N, K, K), found another kind.")
    return kernels


def _print_fit(fit: SensorFit) -> None:
    from rich.table import Table

    from edge_dp.cli.tables import console

    table = Table(title="Matched against predicted disparity, px, where views match and depth is known")
    for column in ("capture", "coverage %", "matched", "predicted", "median error", "bias"):
        table.add_column(column, justify="left" if column == "capture" else "right")
    for r in fit.residuals:
        values = (f"{value:.3f}" for value in (r.matched_px, r.predicted_px, r.median_abs_px, r.bias_px))
        table.add_row(r.name, f"{100 * r.coverage:.0f}", *values)
    output = console()
    output.print(table)
    gain = "left as it was: too few captures" if fit.gain_error is None else f"error {100 * fit.gain_error:.2f} % rms"
    output.print(f"disparity = {fit.offset:.4g} {fit.slope:+.4g} / Z px, median error {fit.median_abs_px:.3f} px")
    output.print(f"alpha {fit.sensor.alpha}, focus {fit.sensor.focus_m} m, right gain {gain}")


def _fit_json(fit: SensorFit) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "alpha": fit.sensor.alpha,
        "focus_m": fit.sensor.focus_m,
        "slope_px_m": fit.slope,
        "offset_px": fit.offset,
        "median_abs_px": fit.median_abs_px,
        "gain_error": fit.gain_error,
        "captures": [asdict(r) for r in fit.residuals],
    }


def _text(value: Any) -> str:
    """A value for eyes; what is no single number is told apart or counted."""
    if value is None:
        return "unknown"
    if isinstance(value, dict) and "coefficients" in value:
        rows = value["coefficients"]
        width, height = value["field_px"]
        return f"polynomial {len(rows[0]) - 1} in x, {len(rows) - 1} in y over {width}x{height} px"
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" if isinstance(entry, int | float) else name for name, entry in value.items())
    return ", ".join(f"{entry:g}" for entry in value) if isinstance(value, tuple) else str(value)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, allow_nan=False))
