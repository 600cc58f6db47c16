import hashlib
import sys
from pathlib import Path

import pytest

import edge_dp.files
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import atomic_folder, atomic_write, json_dump, json_load, sha256


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_bundle(folder, text):
    with atomic_folder(folder, "manifest.json") as temporary:
        (temporary / "golden").mkdir()
        (temporary / "golden" / "input.bin").write_bytes(b"\0" * 10)
        (temporary / "manifest.json").write_text(text)


def interrupt(folder, error):
    with atomic_folder(folder, "manifest.json") as temporary:
        (temporary / "manifest.json").write_text("half")
        raise error


def test_atomic_write_makes_parents_and_keeps_the_suffix(tmp_path):
    with atomic_write(tmp_path / "new" / "map.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path / "new"
        temporary.write_text("done")
    assert (tmp_path / "new" / "map.png").read_text() == "done"
    assert names(tmp_path / "new") == ["map.png"]


def test_atomic_write_interrupted_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_atomic_write_refuses_a_folder_and_a_parent_that_is_a_file(tmp_path):
    with (
        pytest.raises(InputError, match="expected the name of a file to write, found a folder"),
        atomic_write(tmp_path),
    ):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/a\.txt: expected a place that can be written, found: "):
        json_dump({}, tmp_path / "file" / "a.txt")


def test_atomic_write_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(InputError, match=r"a\.txt: expected a place that can be written, found: No space left\. Free"),
        atomic_write(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left")
    assert names(tmp_path) == []


def test_atomic_folder_is_written_and_replaced(tmp_path):
    bundle = tmp_path / "out" / "bundle"
    write_bundle(bundle, "first")
    (bundle / "stale.txt").touch()
    write_bundle(bundle, "second")
    assert names(tmp_path / "out") == ["bundle"]
    assert names(bundle) == ["golden", "manifest.json"]
    assert (bundle / "manifest.json").read_text() == "second"


def test_atomic_folder_interrupted_keeps_the_old_one(tmp_path):
    bundle = tmp_path / "bundle"
    write_bundle(bundle, "old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(bundle, "manifest.json") as temporary:
        (temporary / "manifest.json").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["bundle"]
    assert names(bundle) == ["golden", "manifest.json"]
    assert (bundle / "manifest.json").read_text() == "old"


def test_atomic_folder_is_replaced_in_one_step_where_the_system_can(tmp_path, monkeypatch):
    """Two renames would leave a moment, and after a kill an age, without any folder of that name."""
    if not sys.platform.startswith("linux"):
        pytest.skip("no exchange of two names on this system")
    bundle = tmp_path / "bundle"
    write_bundle(bundle, "old")
    monkeypatch.delattr(Path, "rename")
    write_bundle(bundle, "new")
    assert (bundle / "manifest.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def test_atomic_folder_full_disk_is_one_line(tmp_path):
    bundle = tmp_path / "bundle"
    write_bundle(bundle, "old")
    with pytest.raises(InputError, match=r"bundle: expected a place that can be written, found: No space left\. Free"):
        interrupt(bundle, OSError(28, "No space left"))
    with pytest.raises(FileNotFoundError):  # not about writing: none of its business
        interrupt(bundle, FileNotFoundError(2, "No such file", "calibration.npy"))
    assert names(tmp_path) == ["bundle"]
    assert (bundle / "manifest.json").read_text() == "old"


def test_atomic_folder_puts_the_old_one_back_if_the_last_rename_fails(tmp_path, monkeypatch):
    """The way of systems that cannot exchange two names."""
    monkeypatch.setattr(edge_dp.files, "_exchange", lambda *_: False)
    bundle = tmp_path / "bundle"
    write_bundle(bundle, "old")
    rename = type(bundle).rename

    def fail_on_the_new_one(self, target):
        if target == bundle and (self / "manifest.json").read_text() == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(bundle), "rename", fail_on_the_new_one)
    with pytest.raises(OSError, match="Input/output error"):
        write_bundle(bundle, "new")
    assert names(tmp_path) == ["bundle"]
    assert (bundle / "manifest.json").read_text() == "old"


def test_atomic_folder_never_touches_what_edge_dp_did_not_write(tmp_path):
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_text("dear")
    with pytest.raises(InputError, match=r"photos: expected no folder, .* \(with manifest\.json\), found other files"):
        write_bundle(foreign, "new")
    assert names(foreign) == ["holiday.jpg"]
    with pytest.raises(InputError, match=r"holiday\.jpg: expected the name of a folder to write, found a file"):
        write_bundle(foreign / "holiday.jpg", "new")
    with pytest.raises(InputError, match=r"below: expected a place that can be written, found: Not a directory"):
        write_bundle(foreign / "holiday.jpg" / "below", "new")


def test_atomic_folder_that_turns_foreign_meanwhile_is_left_alone(tmp_path):
    target = tmp_path / "bundle"
    with pytest.raises(InputError, match="found other files"), atomic_folder(target, "manifest.json") as temporary:
        (temporary / "manifest.json").touch()
        target.mkdir()
        (target / "notes.txt").touch()
    assert names(target) == ["notes.txt"]
    assert names(tmp_path) == ["bundle"]


def test_atomic_folder_fills_an_empty_one_and_wants_its_marker(tmp_path):
    (tmp_path / "bundle").mkdir()
    write_bundle(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle" / "manifest.json").read_text() == "new"
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"), atomic_folder(tmp_path / "b", "manifest.json"):
        pass
    assert names(tmp_path) == ["bundle"]


def test_sha256_published_value(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-4, appendix example
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "large").write_bytes(bytes(range(256)) * 5000)
    assert sha256(tmp_path / "large") == hashlib.sha256(bytes(range(256)) * 5000).hexdigest()
    with pytest.raises(InputError, match="absent: expected a readable file, found: No such file"):
        sha256(tmp_path / "absent")


def test_json_keeps_the_order_and_ends_with_a_newline(tmp_path):
    json_dump({"b": 1, "a": ["µ"]}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": 1,\n  "a": [\n    "µ"\n  ]\n}\n'.encode()
    assert list(json_load(tmp_path / "a.json")) == ["b", "a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_json_does_not_have(tmp_path, value):
    with pytest.raises(InputError, match=r"a\.json: expected finite numbers only, found NaN or infinity"):
        json_dump({"error": value}, tmp_path / "a.json")
    assert names(tmp_path) == []


def test_json_load_errors(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(SchemaError, match=r"a\.json: expected JSON, found something else"):
        json_load(tmp_path / "a.json")
