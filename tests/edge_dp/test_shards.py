import pytest

from edge_dp.errors import EdgeDpError, InputError
from edge_dp.simulation.shards import make_shards


def test_errors_of_workers_reach_the_caller_and_stop_the_rest(tmp_path, monkeypatch):
    """What is made need not be captures."""
    (tmp_path / "makers.py").write_text(
        "import os\nfrom edge_dp.errors import InputError\n\n"
        "def refuse(path, index):\n    if index == 1:\n        raise InputError('second: no')\n    path.touch()\n\n"
        "def die(path, index):\n    os._exit(9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import makers

    out = tmp_path / "out"
    out.mkdir()
    shards = [out / f"part_{index}.txt" for index in range(50)]
    with pytest.raises(InputError, match=r"^second: no$"):
        make_shards(shards, makers.refuse, 1, lambda done: None)
    assert [path.name for path in out.iterdir()] == ["part_0.txt"]
    with pytest.raises(EdgeDpError, match=r"out: a worker process ended early: killed.*fewer workers"):
        make_shards(shards, makers.die, 1, lambda done: None)
