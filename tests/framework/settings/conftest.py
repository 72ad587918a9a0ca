from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

import batchmill
from batchmill.components import ComponentRegistry, Kind
from batchmill.plugin_manager import Catalog


class Mode(Enum):
    FAST = 1
    EXACT = 2


@dataclass
class Inner:
    depth: int = 1


@dataclass
class TimesSettings:
    """Multiplies."""

    path: str
    times: int = 2
    rate: float = 0.5
    mode: Mode = Mode.FAST
    how: Literal["whole", "part"] = "whole"
    limit: int | None = None
    columns: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    builder: str = batchmill.setting(resolve=Kind.BUILDER, default="")


@dataclass
class AccuracySettings:
    """Counts hits."""

    prediction: str = "prediction"
    target: str = "label"


@dataclass
class NoSettings:
    """Nothing to set."""


@dataclass
class LocalSettings:
    """Starts workers."""

    nproc: int = 1


class Sample:
    """A plugin with everything that ``config.yaml`` selects by default, and a little more."""

    @batchmill.hookimpl
    def register_components(self, registry: ComponentRegistry) -> None:
        for kind, name in [
            (Kind.DATASET, "numbers"),
            (Kind.WRITER, "parquet"),
            (Kind.WRITER, "none"),
            (Kind.STORAGE, "local"),
            (Kind.TRACKER, "sqlite"),
            (Kind.CLAIMS, "dynamic"),
            (Kind.CALLBACK, "progress"),
            (Kind.CALLBACK, "logging"),
        ]:
            registry.add(kind, name, "nowhere:Nothing", schema=NoSettings)
        registry.add(Kind.STORAGE, "object_store", "nowhere:Nothing", schema=NoSettings, aliases=("s3", "gs"))
        registry.add(Kind.LAUNCHER, "local", "nowhere:Nothing", schema=LocalSettings)
        registry.add(Kind.PROCESSOR, "times", "nowhere:Times", schema=TimesSettings)
        registry.add(Kind.PROCESSOR, "idle", "nowhere:Idle", schema=NoSettings)
        registry.add(Kind.REDUCER, "accuracy", "nowhere:Accuracy", schema=AccuracySettings)
        registry.add(Kind.REDUCER, "confusion_matrix", "nowhere:Confusion", schema=AccuracySettings)
        registry.add(Kind.BUILDER, "linear", "nowhere:linear")


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    made = Catalog()
    made.register(Sample(), "sample", "sample==1.0")
    return made


@pytest.fixture
def base() -> list[str]:
    """The least that composes."""
    return ["processor=times", "processor.path=data", "dataset=numbers"]


@pytest.fixture
def preset(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a preset and return the folder to give as config_dir."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return tmp_path / "conf"

    return write
