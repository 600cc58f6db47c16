"""What ``edge-dp doctor`` finds out."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources

from packaging.requirements import Requirement
from packaging.version import Version

from edge_dp._version import VERSION
from edge_dp.runtime.engines import ENGINES


@dataclass(frozen=True, slots=True)
class PackageState:
    """One package: the version known to work, and the one that is here (null where none is)."""

    name: str
    known: str
    installed: str | None

    @property
    def off(self) -> bool:
        """Installed, but in another version. A local suffix such as ``+cpu`` does not count."""
        return self.installed is not None and Version(self.installed).public != Version(self.known).public


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything doctor prints.

    extras: what each extra would still add. engines: why each cannot run here, null where it can.
    """

    edge_dp: str
    python: str
    machine: str
    packages: tuple[PackageState, ...]
    extras: dict[str, list[str]]
    engines: dict[str, str | None]

    @property
    def off(self) -> list[PackageState]:
        """Packages whose version differs from the known one."""
        return [package for package in self.packages if package.off]


def diagnose() -> Diagnosis:
    """Look at this Python environment."""
    return Diagnosis(
        edge_dp=VERSION,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        packages=tuple(PackageState(name, known, _installed(name)) for name, known in known_versions().items()),
        extras=_extras(),
        engines={entry.name: entry.why_not() for entry in ENGINES.values()},
    )


def known_versions() -> dict[str, str]:
    """The pins of ``constraints.txt``."""
    lines = resources.files("edge_dp").joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, _, version in pins}


def print_diagnosis(diagnosis: Diagnosis, *, as_json: bool) -> None:
    """Print for people, or as JSON."""
    if as_json:
        print(json.dumps(asdict(diagnosis)))
        return
    from rich.table import Table

    from edge_dp.cli.tables import console

    output = console()
    table = Table(title=f"edge-dp {diagnosis.edge_dp}, Python {diagnosis.python}, {diagnosis.machine}")
    for column in ("package", "known to work", "installed", ""):
        table.add_column(column)
    for package in diagnosis.packages:
        mark = "[red]off[/red]" if package.off else "ok" if package.installed else "missing"
        table.add_row(package.name, package.known, package.installed or "-", mark)
    output.print(table)
    for extra, missing in diagnosis.extras.items():
        output.print(f"extra {extra}: {'would add ' + ', '.join(missing) if missing else 'complete'}", markup=False)
    for engine, reason in diagnosis.engines.items():
        output.print(f"engine {engine}: {reason or 'runs here'}", markup=False)
    if diagnosis.off:
        pins = " ".join(f"{package.name}=={package.known}" for package in diagnosis.off)
        output.print(f"{len(diagnosis.off)} version(s) off; to mend: pip install {pins}", markup=False)


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    names = importlib.metadata.metadata("edge-dp").get_all("Provides-Extra") or []
    return {name: sorted(set(_missing(name))) for name in names}


def _missing(extra: str) -> Iterator[str]:
    """Requirements of an extra that are not met, those of the extras it names included."""
    for text in importlib.metadata.requires("edge-dp") or ():
        requirement = Requirement(text)
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "edge-dp":
            for other in requirement.extras:
                yield from _missing(other)
            continue
        installed = _installed(requirement.name)
        if installed is None or not requirement.specifier.contains(installed, prereleases=True):
            yield f"{requirement.name}{requirement.specifier}"
