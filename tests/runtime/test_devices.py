"""What every device does, whatever the way to it: this machine, the real sshd on loopback, the real adbd."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_dp.cli import main
from edge_dp.errors import DeviceError, EdgeDpError, InputError
from edge_dp.runtime.devices import DEVICES, list_devices, open_device
from edge_dp.runtime.devices.adb import AdbDevice
from edge_dp.runtime.devices.base import Device
from edge_dp.runtime.devices.facts import PROBE, parse_facts
from edge_dp.runtime.devices.local import LocalDevice
from edge_dp.runtime.devices.process import Process
from edge_dp.runtime.devices.ssh import SshDevice

from .adb_here import AdbHere
from .processes import gone, marker, sleeps
from .sshd_here import SshdHere

NASTY = [
    "a b",
    "'",
    '"',
    ";touch pwned",
    "a\nb\n",
    "$(touch pwned)",
    "`touch pwned`",
    "\\",
    "*",
    "-n",
    "",
    "!",
    "ü 深",
    "\r\t\x01",
]
NAMES = ["model.pte", *(name for name in NASTY if name)]
ARGUMENTS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=6
)
EVERY_BYTE = bytes(range(256))
LIMIT_S = 60


@dataclass
class Way:
    """How to reach a device, and the folder there that holds what is pushed; empty where nothing is copied."""

    make: Callable[[], Device]
    root: str


every_way = pytest.mark.parametrize("way", ["local", "ssh", "adb"], indirect=True, scope="module")
remote_way = pytest.mark.parametrize("way", ["ssh", "adb"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def way(request: pytest.FixtureRequest) -> Way:
    if request.param == "local":
        return Way(LocalDevice, "")
    if request.param == "ssh":
        sshd: SshdHere = request.getfixturevalue("sshd_here")
        return Way(lambda: SshDevice(sshd.destination, sshd.options), f"{sshd.home}/edge_dp-device")
    adb: AdbHere = request.getfixturevalue("adb_here")
    root = f"{adb.root}/edge_dp"
    return Way(lambda: AdbDevice(adb.serial, adb.adb, adb.environment, root), root)


@pytest.fixture(scope="module")
def device(way: Way) -> Iterator[Device]:
    with way.make() as opened:
        yield opened
        opened.clean()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_obeyed() -> Iterator[None]:
    """No argument, name or variable of these tests is read by a shell: none makes the file that many ask for."""
    yield
    assert not any((folder / "pwned").exists() for folder in (Path.cwd(), Path.home(), Path("/")))


def files_in(device: Device, folder: str) -> set[str]:
    found = device.run(["find", folder, "-type", "f", "-print0"], timeout_s=LIMIT_S)
    return set(found.stdout.decode().split("\0")[:-1])


@every_way
def test_facts(device):
    facts = device.facts()
    assert (facts.machine, facts.system) == (os.uname().machine, os.uname().sysname)
    assert facts.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.features
    assert facts.processor


@every_way
def test_nasty_arguments_arrive_unchanged(device):
    done = device.run(["printf", "%s\\0", *NASTY], timeout_s=LIMIT_S)
    assert done.stdout.decode() == "".join(f"{argument}\0" for argument in NASTY)


@every_way
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=ARGUMENTS)
def test_any_arguments_arrive_unchanged(device, arguments):
    done = device.run(["printf", "%s\\0", *arguments], timeout_s=LIMIT_S)
    assert (done.code, done.stdout.decode()) == (0, "".join(f"{argument}\0" for argument in arguments))


@every_way
def test_input_output_and_errors_are_binary_and_apart(device):
    content = EVERY_BYTE * 500
    script = 'printf %s "$NAME" >&2; cat; exit 7'
    done = device.run(
        ["sh", "-c", script], timeout_s=LIMIT_S, stdin=content, environment={"NAME": "a 'b'; $(touch pwned)\n"}
    )
    assert (done.code, done.stdout, done.stderr) == (7, content, b"a 'b'; $(touch pwned)\n")


@every_way
def test_a_program_that_reads_nothing_ends_well(device):
    assert device.run(["echo", "done"], timeout_s=LIMIT_S, stdin=bytes(2_000_000)).stdout == b"done\n"


@every_way
def test_a_program_that_is_not_there(device):
    assert device.run(["no such program"], timeout_s=LIMIT_S).code == 127


@every_way
@pytest.mark.parametrize("environment", [{"A B": "c"}, {"A;touch pwned": "c"}, {"": "c"}, {"A": "\0"}])
def test_what_is_no_variable(device, environment):
    with pytest.raises(DeviceError, match="expected"):
        device.run(["echo"], timeout_s=LIMIT_S, environment=environment)


@every_way
@pytest.mark.parametrize("arguments", [[], [""], ["echo", "a\0b"]])
def test_what_is_no_command(device, arguments):
    with pytest.raises(DeviceError, match="expected"):
        device.run(arguments, timeout_s=LIMIT_S)


@every_way
@pytest.mark.parametrize("name", NAMES)
def test_a_file_goes_there_and_back_whatever_its_name(device, way, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(EVERY_BYTE + name.encode())
    there = device.push(file)
    assert there.endswith(f"/{name}")
    device.pull(there, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    if way.root:
        assert there in files_in(device, way.root)


@every_way
def test_a_program_and_a_folder_of_programs_can_be_executed(device, tmp_path):
    folder = tmp_path / "x.mlpackage"
    program = folder / "Data" / "deep er" / "run 'me"
    program.parent.mkdir(parents=True)
    (folder / "empty").mkdir()
    program.write_text("#!/bin/sh\necho ran $1\n")
    program.chmod(0o755)
    assert device.run([device.push(program, executable=True), "alone"], timeout_s=LIMIT_S).stdout == b"ran alone\n"
    there = device.push(folder)
    assert there.endswith("/x.mlpackage")
    assert device.run([f"{there}/Data/deep er/run 'me", "inside"], timeout_s=LIMIT_S).stdout == b"ran inside\n"
    assert device.run(["find", f"{there}/empty"], timeout_s=LIMIT_S).code == 0


@every_way
def test_a_file_to_push_or_pull_that_is_absent(device, tmp_path):
    with pytest.raises(InputError, match=r"absent\.pte: expected a file or folder"):
        device.push(tmp_path / "absent.pte")
    with pytest.raises(DeviceError, match="expected a file"):
        device.pull("/no/such file", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@every_way
def test_a_spawned_program_ends_with_its_input(device):
    process = device.spawn(["cat"])
    process.stdin.write(EVERY_BYTE)
    process.stdin.flush()
    assert process.stdout.read(256) == EVERY_BYTE
    process.stdin.close()
    assert process.wait(LIMIT_S) == 0


@every_way
def test_killing_a_spawned_program_ends_it_on_the_device(device):
    name = marker()
    process = device.spawn(["sh", "-c", f"sleep {name} & sleep {name}"], {"A": "b"})
    assert sleeps(name)
    process.kill()
    assert process.wait(LIMIT_S) != 0
    assert gone(name)


@every_way
def test_close_ends_what_runs_and_removes_scratch(way):
    name = marker()
    with way.make() as device:
        folder = device.scratch()
        assert device.run(["touch", f"{folder}/file"], timeout_s=LIMIT_S).code == 0
        assert device.scratch() != folder
        device.spawn(["sleep", name])
        assert sleeps(name)
    device.close()
    assert gone(name)
    with way.make() as device:
        assert device.run(["find", folder], timeout_s=LIMIT_S).code != 0


@every_way
def test_a_program_that_hangs_is_ended_here_and_there(device):
    name = marker()
    with pytest.raises(DeviceError, match=r"within 1 s"):
        device.run(["sh", "-c", f"sleep {name} & sleep {name}"], timeout_s=1)
    assert gone(name)
    assert device.run(["echo", "alive"], timeout_s=LIMIT_S).stdout == b"alive\n"


@remote_way
def test_what_is_there_already_is_not_sent_again(device, way, tmp_path):
    file = tmp_path / "model.pte"
    file.write_bytes(os.urandom(300_000))
    there = device.push(file)
    inode = device.run(["ls", "-i", there], timeout_s=LIMIT_S).stdout
    before = files_in(device, way.root)
    os.utime(file, (1, 1))
    assert device.push(file) == there
    assert device.run(["ls", "-i", there], timeout_s=LIMIT_S).stdout == inode
    assert files_in(device, way.root) == before
    file.write_bytes(b"other")
    other = device.push(file)
    assert files_in(device, way.root) == before | {other}
    assert device.run(["cat", other], timeout_s=LIMIT_S).stdout == b"other"


@remote_way
def test_a_full_device_keeps_nothing_half_written(device, way, tmp_path):
    device.push(Path(__file__))
    before = files_in(device, way.root)
    big = tmp_path / "big.pte"
    big.write_bytes(bytes(20_000_000))
    with pytest.raises(DeviceError, match=r"big\.pte.*(No space left|[Ff]ile size limit|File too large).*--clean"):
        device.push(big)
    assert files_in(device, way.root) == before
    small = tmp_path / "small.pte"
    small.write_bytes(b"fits")
    assert device.run(["cat", device.push(small)], timeout_s=LIMIT_S).stdout == b"fits"


@remote_way
def test_clean_removes_everything_but_not_the_device(device, way):
    device.push(Path(__file__))
    device.clean()
    assert device.run(["find", way.root], timeout_s=LIMIT_S).code != 0
    assert device.run(["cat", device.push(Path(__file__))], timeout_s=LIMIT_S).stdout == Path(__file__).read_bytes()


@remote_way
def test_one_thread_per_device(way, tmp_path):
    """Each its own file; then all the same one, at once."""
    files = [tmp_path / f"{number}.bin" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 200_000)

    def there_and_back(file: Path) -> str:
        with way.make() as device:
            there = device.push(file)
            assert device.run(["cat", there], timeout_s=LIMIT_S).stdout == file.read_bytes()
        return there

    (tmp_path / "same.bin").write_bytes(os.urandom(200_000))
    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(there_and_back, files))) == 3
        assert len(set(threads.map(there_and_back, [tmp_path / "same.bin"] * 3))) == 1


def test_noise_of_a_login_shell_is_dropped_before_the_first_word():
    process = Process(["printf", "%s", "Welcome!\nedge_dp: 3 mails\nedge_dp:17\n\1\2"])
    assert process.read_line(b"edge_dp:", LIMIT_S) == b" 3 mails"
    assert process.read_line(b"edge_dp:1", LIMIT_S) == b"7"
    assert process.finish(b"", LIMIT_S)[0] == b"\1\2"


def test_a_program_for_another_machine(tmp_path):
    program = tmp_path / "runner"
    program.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xf3\0" + bytes(44))  # ELF, RISC-V
    program.chmod(0o755)
    done = LocalDevice().run([str(program)], timeout_s=LIMIT_S)
    assert done.code == 127
    assert b"Exec format error" in done.stderr


def test_a_program_that_may_not_be_executed(tmp_path):
    (tmp_path / "runner").write_bytes(b"")
    with pytest.raises(DeviceError, match=r"runner.*chmod"):
        LocalDevice().push(tmp_path / "runner", executable=True)


def test_facts_of_phones():
    core = "processor\t: {0}\nFeatures\t: fp asimd {2}\nCPU implementer\t: 0x41\nCPU part\t: {1}\n\n"
    cores = core.format(0, "0xd05", "asimddp") * 2 + core.format(2, "0xd0b", "asimddp")
    facts = parse_facts("machine:aarch64\nsystem:Linux\nonline:3\nMemTotal:        2000 kB\n" + cores)
    assert facts.processor == "Cortex-A55 + Cortex-A76"
    assert (facts.cores, facts.memory_bytes, facts.python) == (3, 2000 * 1024, None)
    assert facts.features == ("fp", "asimd", "asimddp")
    assert parse_facts(core.format(0, "0xfff", "") * 2).processor == "0xfff"
    assert parse_facts(core.format(0, "0xfff", "") * 2).cores == 2
    assert parse_facts("").cores == 1


def test_a_python_without_numpy_is_no_python(tmp_path):
    """The probe with interpreters of its own choosing."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cat", "echo", "nproc", "sh", "uname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))

    def probed() -> str | None:
        done = LocalDevice().run(["sh", "-c", PROBE], timeout_s=LIMIT_S, environment={"PATH": str(tools)})
        return parse_facts(done.stdout.decode()).python

    assert probed() is None
    python = tools / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # without its packages
    python.chmod(0o755)
    assert probed() is None
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert probed() == str(python)


@pytest.mark.parametrize(
    "address",
    ["", "phone", "adb:", "adb://", "ssh://", "local://", "local://x", "usb://x", "adb:/x", "LOCAL", "emulated://"],
)
def test_an_address_of_nothing_names_the_kinds(address):
    with pytest.raises(
        DeviceError, match=r"expected the address.*local, adb://SERIAL, ssh://USER@HOST, emulated://CORE"
    ):
        open_device(address)


def test_every_kind_can_be_named_and_an_unknown_core_is_refused():
    assert type(open_device("local")) is LocalDevice
    assert type(open_device("ssh://user@host:22")) is SshDevice
    assert type(open_device("adb://serial")) is AdbDevice
    assert open_device("emulated://cortex-a76").emulated
    with pytest.raises(EdgeDpError, match="cortex-a76"):
        open_device("emulated://pentium")


def test_the_list_has_every_kind(monkeypatch, adb_here):
    for name, value in adb_here.environment.items():
        monkeypatch.setenv(name, value)
    listed = {one.address: one for one in list_devices()}
    assert {address.split("://")[0] for address in listed} == set(DEVICES)
    assert listed["local"].ready
    assert not listed["ssh://USER@HOST"].ready
    assert listed["emulated://cortex-a53"].why_not is None


def test_the_verb_needs_to_know_what_to_clean(capsys):
    assert main(["devices", "--clean"]) == 2
    assert "expected the addresses" in capsys.readouterr().err
