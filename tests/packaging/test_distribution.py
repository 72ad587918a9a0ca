"""What is shipped: the wheel's and sdist's contents, the entry points, the public names."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import batchmill

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and an sdist of this tree, made by the build backend itself."""
    pytest.importorskip("hatchling", reason="the build backend; it comes with the extra 'test'")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def source_files() -> set[str]:
    """Return what a wheel should hold of our sources, as paths in it."""
    roots = ("framework/batchmill", "plugins/batchmill_plugins", "conf/batchmill_conf")
    return {
        path.relative_to((ROOT / root).parent).as_posix()
        for root in roots
        for path in (ROOT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_exactly_the_three_packages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"batchmill-{batchmill.__version__}.dist-info"
    ours = {name for name in names if not name.startswith(info)}
    assert ours == source_files()
    assert {"batchmill/py.typed", "batchmill_plugins/py.typed", "batchmill_conf/config.yaml"} <= ours
    assert f"{info}/licenses/LICENSE" in names


def test_wheel_is_the_same_for_the_same_sources(built: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    (first,), (second,) = built.glob("*.whl"), tmp_path.glob("*.whl")
    assert first.read_bytes() == second.read_bytes()


def test_sdist_holds_what_is_needed_to_test_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "constraints.txt",
        "framework/batchmill/hookspecs.py",
        "plugins/batchmill_plugins/writers/__init__.py",
        "conf/batchmill_conf/config.yaml",
        "docs/index.md",
        "docs/images/digits.svg",
        "examples/digits/run.py",
        "benchmarks/__main__.py",
        "tests/packaging/test_distribution.py",
    }
    assert expected <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("runs/", ".git/"))]


def test_installed_entry_points_are_those_of_the_project() -> None:
    installed = importlib.metadata.distribution("batchmill").entry_points
    found = {point.name: point.value for point in installed if point.group == "batchmill"}
    assert found == PROJECT["entry-points"]["batchmill"]
    for module in found.values():
        assert hasattr(importlib.import_module(module), "register_components")


def test_version_is_one() -> None:
    assert batchmill.__version__ == PROJECT["version"] == importlib.metadata.version("batchmill")


def test_every_public_name_is_there_and_explains_itself() -> None:
    assert len(batchmill.__all__) == len(set(batchmill.__all__)) >= 50
    for name in batchmill.__all__:
        value = getattr(batchmill, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), f"batchmill.{name} has no docstring"


def test_every_requirement_has_a_lower_bound() -> None:
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement, requirement


def test_no_file_is_longer_than_400_lines() -> None:
    long = [
        path.relative_to(ROOT).as_posix()
        for root in ("framework", "plugins", "conf", "examples", "benchmarks", "docs", "tests")
        for path in (ROOT / root).rglob("*.py")
        if len(path.read_text().splitlines()) > 400
    ]
    assert not long
