"""What the tests of C++ programs share: where they are built, and how they are run."""

import os
import subprocess

import pytest

ARTIFACTS = ("executorch-int8", "executorch-fp32")


@pytest.fixture(scope="session")
def built_here(tmp_path_factory):
    """Programs are built once for all tests, away from the user's cache; compilers and wheels are taken from there."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder) / "native"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_dp.runtime.native.build.cache_folder", lambda: folder)
        yield


def run(*arguments, stdin=b""):
    """Exit code, standard output, and standard error as text."""
    done = subprocess.run([str(a) for a in arguments], input=stdin, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr.decode()
