"""A private apt: packages of the machine's own Debian mirror, for it or for arm64, without touching anything of the machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from edge_dp.errors import DeviceError
from edge_dp.runtime.cache import Progress, cache_folder

RELEASE = "bookworm"
BACKPORTS = f"{RELEASE}-backports"
GUEST = "arm64"

_MIRROR = "http://deb.debian.org/debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_CODENAMES = ("stable", "bookworm", "trixie", "forky", "bullseye", "sid", "testing", "unstable")
_FRESH_S = 3600
_KEPT_SETTINGS = re.compile(
    r"Acquire::(http|https|Retries|ForceIPv4|ForceIPv6|Proxy-Auto-Detect|Check-Valid-Until)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Source:
    """An archive of packages as apt's own files describe it.

    options: further fields by their names in deb822, such as Signed-By.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package, and the name of its file."""

    name: str
    version: str
    architecture: str
    file: str
    size: int

    @property
    def spec(self) -> str:
        """As apt-get takes it."""
        return f"{self.name}:{self.architecture}={self.version}".replace(":all=", "=")


def parse_one_line(text: str) -> Iterator[Source]:
    """Sources of binary packages in a ``.list`` file."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match is None:
            continue
        pairs = (pair.split("=", 1) for pair in (match[1] or "").split() if "=" in pair)
        options = {name.title(): value.replace(",", " ") for name, value in pairs}
        yield Source(match[2], match[3], tuple(match[4].split()), _kept(options))


def parse_deb822(text: str) -> Iterator[Source]:
    """Sources of binary packages in a ``.sources`` file."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')}\n{line}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().title()
                fields[name] = value.strip()
        if "deb" not in fields.get("Types", "").split() or fields.get("Enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("Uris", "").split():
            for suite in fields.get("Suites", "").split():
                yield Source(uri, suite, tuple(fields.get("Components", "").split()), _kept(fields))


def machine_sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """Every source that this machine is configured with."""
    found: list[Source] = []
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        parse = {".list": parse_one_line, ".sources": parse_deb822}.get(path.suffix)
        if parse is not None and path.is_file():
            found += parse(path.read_text(encoding="utf-8", errors="replace"))
    return found


def debian_sources(machine: Sequence[Source]) -> list[Source]:
    """The archives to take packages from: the machine's Debian mirror, its security archive, and the backports on the mirror.

    A machine without a Debian mirror takes deb.debian.org.
    """
    mirror = next(
        (s for s in machine if s.suite in _CODENAMES and "main" in s.components),
        Source(_MIRROR, RELEASE, ("main",), {"Signed-By": _KEYRING}),
    )
    security = [s for s in machine if s.suite == f"{RELEASE}-security"][:1]
    suites = [Source(mirror.uri, suite, ("main",), mirror.options) for suite in (RELEASE, BACKPORTS)]
    return [*suites, *(Source(s.uri, s.suite, ("main",), s.options) for s in security)]


class Apt:
    """apt-get with lists, archives and configuration of its own in the cache folder.

    Args:
        guest: packages for an empty arm64 machine, with all they need; else for this machine, with what it lacks.

    Raises:
        DeviceError: this machine has no apt, or not the key of the Debian archive.
    """

    def __init__(self, *, guest: bool) -> None:
        if absent := [
            tool for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb") if shutil.which(tool) is None
        ]:
            raise DeviceError(
                f"the emulator is built from Debian packages: expected {absent[0]} on this machine, found none. Build on Debian "
                "or Ubuntu."
            )
        self._folder = cache_folder() / "apt"
        self.archives = self._folder / "archives"
        self._nothing = self._folder / "nothing"  # apt-get names no files that it finds already fetched
        for name in ("state/lists/partial", "archives/partial", "nothing/partial", "cache"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._mirror = debian_sources(machine_sources())[0].uri
        self._stamp = self._folder / f"updated_{re.sub(r'[^A-Za-z0-9.]', '_', self._mirror)}"
        self._host = _output(["dpkg", "--print-architecture"]).strip()
        self._guest = guest
        self._environment = {**os.environ, "APT_CONFIG": str(self._write_configuration()), "LC_ALL": "C"}

    def update(self, progress: Progress, *, force: bool = False) -> None:
        """Fetch the lists of packages, unless that was done within the hour and nothing failed since.

        Raises:
            DeviceError: a mirror cannot be reached or its lists are not signed by the right key.
        """
        stamp = self._stamp
        if force or not stamp.exists() or time.time() - stamp.stat().st_mtime > _FRESH_S:
            self._get(["update"], "package lists", progress)
            stamp.touch()

    def resolve(self, names: Sequence[str], release: str = RELEASE) -> list[Package]:
        """The packages and what they need, less what this machine (never the guest) has installed.

        Args:
            names: packages; ``NAME/SUITE`` takes one from that suite.
            release: suite that is preferred for them and for what they need.
        """
        arguments = ["install", "--yes", "--print-uris", "--no-install-recommends", f"--target-release={release}"]
        arguments.append(f"-oDir::Cache::archives={self._nothing}")
        listing = self._run(["apt-get", "-qq", *arguments, *names], f"resolving {' '.join(names)}")
        return [_package(line) for line in listing.splitlines() if line.startswith("'")]

    def dependency(self, name: str, prefix: str) -> str:
        """The name of what a package depends on that begins with ``prefix``: the kernel of a metapackage."""
        listing = self._run(["apt-cache", "depends", name], f"looking for {name}")
        found = re.search(rf"Depends: ({re.escape(prefix)}\S+)", listing)
        if found is None:
            raise DeviceError(f"{name}: expected a dependency on {prefix}..., found none on {self._mirror}.")
        return found[1]

    def single(self, name: str) -> Package:
        """One package without what it needs."""
        listing = self._run(["apt-get", "-qq", "download", "--print-uris", name], f"looking for {name}")
        return _package(listing.strip())

    def download(self, packages: Sequence[Package], stage: str, progress: Progress) -> list[Path]:
        """Fetch files of packages; those here already, whole, are not fetched again.

        Raises:
            DeviceError: the mirror does not have one, or sends another file than its lists promise.
        """
        absent = [p for p in packages if not self._has(p)]
        if absent:
            self._get(["download", *(p.spec for p in absent)], stage, progress)
        else:
            progress(stage, 100, 100, "")
        return [self.archives / p.file for p in packages]

    def _has(self, package: Package) -> bool:
        path = self.archives / package.file
        return path.is_file() and path.stat().st_size == package.size

    def _get(self, arguments: list[str], stage: str, progress: Progress) -> None:
        """apt-get with its own figures of progress."""
        read, write = os.pipe()
        with os.fdopen(read, errors="replace") as status:
            watcher = threading.Thread(target=_report, args=(status, stage, progress))
            try:
                command = ["apt-get", "-q", f"-oAPT::Status-Fd={write}", *arguments]
                process = subprocess.Popen(
                    command,
                    cwd=self.archives,
                    env=self._environment,
                    pass_fds=(write,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            finally:
                os.close(write)
            watcher.start()
            _, errors = process.communicate()
            watcher.join()
        if process.returncode:
            self._stamp.unlink(missing_ok=True)
            raise self._error(stage, errors)
        progress(stage, 100, 100, "")

    def _run(self, command: list[str], stage: str) -> str:
        done = subprocess.run(
            command, cwd=self._nothing, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise self._error(stage, done.stderr)
        return done.stdout

    def _error(self, stage: str, errors: str) -> DeviceError:
        said = [line for line in errors.splitlines() if line.startswith(("E:", "W:"))] or errors.splitlines()
        reason = " ".join(line.removeprefix("E: ").removeprefix("W: ") for line in said[:2]) or "no reason given"
        return DeviceError(
            f"{stage}: {self._mirror}: {' '.join(reason.split())}. Check the network and apt's sources in /etc/apt, then try "
            "again; what is downloaded is kept."
        )

    def _write_configuration(self) -> Path:
        """The apt.conf of this apt: nothing of the machine's but its proxies and its keys."""
        name = "guest" if self._guest else "host"
        own, foreign = (GUEST, ()) if self._guest else (self._host, (GUEST,) if self._host != GUEST else ())
        state, sources = self._folder / "state", self._folder / "debian.sources"
        empty = state / "status"
        empty.touch()
        settings = {
            "APT::Architecture": own,
            "APT::Sandbox::User": "",  # as root apt would drop to a user who cannot see our folder
            "APT::Update::Error-Mode": "any",
            "APT::Get::Assume-Yes": "true",
            "Acquire::Languages": "none",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
            "Dir::State": str(state),
            "Dir::State::status": str(empty) if self._guest else "/var/lib/dpkg/status",
            "Dir::Cache": str(self._folder / "cache"),
            "Dir::Cache::archives": str(self.archives),
            "Dir::Cache::pkgcache": f"{name}.bin",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": str(sources),
            "Dir::Etc::sourceparts": "/dev/null",
        }
        kept = [line for line in _output(["apt-config", "dump"]).splitlines() if _KEPT_SETTINGS.match(line)]
        lines = [f'{key} "{value}";' for key, value in settings.items()]
        architectures = " ".join(f'"{a}";' for a in (own, *foreign))
        path = self._folder / f"{name}.conf"
        _replace(path, "\n".join([*lines, f"APT::Architectures {{ {architectures} }};", *kept, ""]))
        every = " ".join(dict.fromkeys((self._host, GUEST)))
        _replace(sources, "\n".join(_paragraph(s, every) for s in debian_sources(machine_sources())))
        return path


def unpack(archives: Sequence[Path], folder: Path, stage: str, progress: Progress) -> None:
    """Unpack files of packages into a folder.

    Raises:
        DeviceError: one is damaged; it is removed, so that the next try fetches it again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for done, archive in enumerate(archives):
        progress(stage, done, len(archives), archive.name)
        result = subprocess.run(["dpkg-deb", "-x", archive, folder], capture_output=True, text=True, check=False)
        if result.returncode:
            archive.unlink(missing_ok=True)
            raise DeviceError(
                f"{archive}: expected a package that can be unpacked into {folder}, found: {' '.join(result.stderr.split())}. "
                "Free space if the disk is full, then try again: the file is fetched anew."
            )
    progress(stage, len(archives), len(archives), "")


def machine_release() -> str:
    """Codename of the distribution that this machine runs, such as bookworm; empty where it does not tell."""
    try:
        return platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    except OSError:
        return ""


def _kept(options: dict[str, str]) -> dict[str, str]:
    """Options that are of the archive: its key and how far it is trusted."""
    return {n: v for n, v in options.items() if n in ("Signed-By", "Trusted", "Check-Valid-Until", "Valid-Until-Max")}


def _paragraph(source: Source, architectures: str) -> str:
    """A source as a paragraph of deb822."""
    options = "".join(f"{name}: {value}\n" for name, value in source.options.items())
    components = " ".join(source.components)
    return (
        f"Types: deb\nURIs: {source.uri}\nSuites: {source.suite}\nComponents: {components}\n"
        f"Architectures: {architectures}\n{options}"
    )


def _package(line: str) -> Package:
    """From a line of --print-uris: 'URI' FILE SIZE HASH."""
    _, file, size, *_ = line.split()
    name, version, architecture = file.removesuffix(".deb").split("_")
    return Package(name, unquote(version), architecture, file, int(size))


def _report(status: Iterator[str], stage: str, progress: Progress) -> None:
    """Pass on apt's figures: dlstatus:ITEM:PERCENT:TEXT."""
    for line in status:
        kind, _, percent, *_ = [*line.split(":"), "", "", ""]
        if kind == "dlstatus":
            progress(stage, min(int(float(percent or 0)), 99), 100, "")


def _replace(path: Path, text: str) -> None:
    """Write a file whose readers may be at work."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
