"""The first file that a user reads: it must be true, complete and compose with what is installed."""

import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchmill import settings
from batchmill.components import Component, Kind
from batchmill.contracts.run import RunRequest
from batchmill.plugin_manager import get_catalog
from batchmill.settings.root import GROUPS, SINGLE_KINDS, RootConfig

CONF = Path(str(files("batchmill_conf")))
TEXT = (CONF / "config.yaml").read_text()
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
# A value for each type of required setting, so that every component can be composed.
SAMPLES: dict[Any, str] = {str: "x", int: "1", float: "1.5", bool: "true"}


def defaults() -> dict[str, Any]:
    entries = [entry for entry in CONFIG["defaults"] if isinstance(entry, dict)]
    return {key: value for entry in entries for key, value in entry.items() if not key.startswith("override")}


def test_the_defaults_list_names_every_kind() -> None:
    assert list(defaults()) == [kind.value for kind in GROUPS]


def test_every_default_is_registered() -> None:
    registry = get_catalog().registry
    for key, value in defaults().items():
        for name in value if isinstance(value, list) else [value]:
            if name is not None:
                assert registry.get(Kind(key), name).name == name


def test_nothing_is_selected_that_only_the_user_can_know() -> None:
    assert [key for key, value in defaults().items() if value is None] == ["processor", "dataset"]


def test_keys_and_values_are_those_of_the_schema() -> None:
    shown = {key: value for key, value in CONFIG.items() if key not in ("defaults", "hydra")}
    assert shown == dataclasses.asdict(RootConfig())


def test_defaults_are_those_of_a_request_made_in_python() -> None:
    python = {f.name: f.default for f in dataclasses.fields(RunRequest) if f.default is not dataclasses.MISSING}
    for key in (key for key in CONFIG if key in python and key != "batch_size"):  # the seed's batch size is 1
        assert CONFIG[key] == python[key]
    for kind in SINGLE_KINDS[2:]:
        factory = RunRequest.__dataclass_fields__[kind.value].default_factory
        assert callable(factory)
        assert factory().name == defaults()[kind.value]


def test_every_key_is_explained() -> None:
    lines = TEXT[TEXT.index("output:") : TEXT.index("hydra:\n")].splitlines()
    keys = [line for line in lines if ":" in line.partition("#")[0]]
    assert len(keys) > len(dataclasses.fields(RootConfig))
    inner = ("  num_workers", "  name")
    assert [line for line in keys if "#" not in line and not line.startswith((*inner, "model:"))] == []


def test_hydra_is_told_to_leave_nothing_behind() -> None:
    assert CONFIG["hydra"] == {
        "output_subdir": None,
        "run": {"dir": "."},
        "sweep": {"dir": ".", "subdir": "."},
        "job": {"chdir": False},
    }
    overrides = [entry for entry in CONFIG["defaults"] if isinstance(entry, dict)]
    assert {"override hydra/job_logging": "none"} in overrides
    assert {"override hydra/hydra_logging": "none"} in overrides


def test_no_preset_has_the_name_of_a_component() -> None:
    registry = get_catalog().registry
    for kind in GROUPS:
        presets = {path.stem for path in (CONF / kind.value).glob("*.yaml")}
        assert presets & set(registry.names(kind)) == set()


COMPONENTS = [component for component in get_catalog().registry if component.kind in GROUPS]


def required(component: Component) -> dict[str, str]:
    from batchmill.settings.field_types import field_types

    assert component.schema is not None
    hints = field_types(component.schema)
    missing = [
        f.name
        for f in dataclasses.fields(component.schema)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    return {name: SAMPLES[hints[name]] for name in missing}


@pytest.mark.parametrize("component", COMPONENTS, ids=[f"{each.kind.value}-{each.name}" for each in COMPONENTS])
def test_every_registered_component_passes_its_own_check(component: Component) -> None:
    typed = {name: yaml.safe_load(value) for name, value in required(component).items()}
    resolved = {
        f.name
        for f in dataclasses.fields(component.schema or type)
        if f.metadata.get("resolve") is not None and f.name in typed
    }
    for name in resolved:
        typed[name] = "mine:Mine"
    checked = settings.check(component.kind, component.name, typed, allow_import=True)
    assert checked.name == component.name
    assert component.schema is not None
    assert list(checked.settings) == [f.name for f in dataclasses.fields(component.schema)]


def test_what_is_installed_composes() -> None:
    """One composition with the real plugins: the smallest dataset and an own processor."""
    given = ["+processor.name=mine:Mine", "allow_import=true", "dataset=jsonl", "dataset.path=x", "reducers=[count]"]
    request = settings.compose([*given, "reducers.count.column=y"])
    assert request.dataset.name == "jsonl"
    assert request.reducers["count"].settings == {"column": "y"}
    assert RunRequest.from_json(request.to_json()) == request
