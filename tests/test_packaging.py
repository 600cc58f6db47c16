"""The package as it is installed: complete, typed, with its pins."""

import importlib.metadata
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edge_dp.cli.diagnosis import known_versions

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_folder_is_installed():
    mapping = {"edge_dp": "edge_dp", "training": "edge_dp.training", "converters": "edge_dp.converters"}
    mapping["runtime"] = "edge_dp.runtime"
    found = set()
    for top, name in mapping.items():
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *init.parent.relative_to(ROOT / top).parts]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_no_generic_name_lands_in_site_packages():
    files = importlib.metadata.files("edge-dp") or []
    tops = {file.parts[0] for file in files if ".." not in file.parts}
    assert not tops & {"training", "converters", "runtime", "tests", "examples", "benchmarks"}


@pytest.mark.parametrize(
    "path", ["py.typed", "constraints.txt", "bundle/manifest.schema.json", "sensors/profiles/pixel4.json"]
)
def test_data_files_are_installed(path):
    assert resources.files("edge_dp").joinpath(path).is_file()


def test_recipe_and_page_are_installed():
    assert resources.files("edge_dp.training").joinpath("recipes/dp_disparity_s.yaml").is_file()
    assert resources.files("edge_dp.runtime.report").joinpath("page.html").is_file()


def test_constraints_at_the_top_are_the_installed_ones():
    assert (ROOT / "constraints.txt").read_text() == (ROOT / "edge_dp" / "constraints.txt").read_text()


def test_every_pin_fits_its_requirement():
    project = PROJECT["project"]
    pins = known_versions()
    texts = [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]
    for requirement in map(Requirement, texts):
        if requirement.name in pins:
            assert requirement.specifier.contains(pins[requirement.name]), requirement


def test_core_requirements_are_all_pinned():
    names = {Requirement(text).name.lower() for text in PROJECT["project"]["dependencies"]}
    assert names <= set(known_versions())
