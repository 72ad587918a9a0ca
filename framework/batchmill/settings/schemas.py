"""Component schemas as typed configuration nodes."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from batchmill.components import Component
from batchmill.errors import PluginError
from batchmill.settings.field_types import field_types, is_mapping, storable
from batchmill.settings.root import NAME_KEY

# Attribute of a node's type that says whose settings it holds.
OWNER = "__batchmill_component__"

# Nodes are needed for every job of a sweep; weak, because catalogs come and go in tests and notebooks.
_NODES: weakref.WeakKeyDictionary[type[Any], dict[str, DictConfig]] = weakref.WeakKeyDictionary()


def schema_node(component: Component) -> DictConfig:
    """Return the typed node of a component's settings, with its name under ``name``. Not to be changed.

    Raises:
        PluginError: A field has a type that config cannot hold, or a default of another type.
    """
    schema = component.schema
    if schema is None:
        raise PluginError(f"{component.kind.noun} {component.name!r} has no settings and no config group.")
    nodes = _NODES.setdefault(schema, {})
    if component.name not in nodes:
        nodes[component.name] = _make_node(component, schema)
    return nodes[component.name]


def _make_node(component: Component, schema: type[Any]) -> DictConfig:
    whose = f"The schema of {component.kind.noun} {component.name!r} of plugin {component.plugin}"
    specs: list[Any] = [(NAME_KEY, str, dataclasses.field(default=component.name))]
    hints = field_types(schema)
    for field in dataclasses.fields(schema):
        default: Any = dataclasses.field()
        if field.default is not dataclasses.MISSING:
            default = dataclasses.field(default=field.default)
        elif field.default_factory is not dataclasses.MISSING:
            default = dataclasses.field(default_factory=field.default_factory)
        specs.append((field.name, storable(hints[field.name]), default))
    try:
        node = OmegaConf.structured(
            dataclasses.make_dataclass(schema.__name__, specs, kw_only=True, namespace={OWNER: component})
        )
    except OmegaConfBaseException as error:
        raise PluginError(
            f"{whose} cannot be used in config: {' '.join(str(error).split())}. A field is int, float, str, "
            f"bool, an Enum, a Literal, a dataclass, Any, or an optional, list or dict of those, and its "
            f"default fits."
        ) from error
    assert isinstance(node, DictConfig)
    open_free_mappings(node)
    return node


def open_free_mappings(node: DictConfig) -> None:
    """Let overrides add keys to the free mappings of a typed node without Hydra's ``+``."""
    for name, hint in field_types(OmegaConf.get_type(node)).items():
        if is_mapping(hint) and not OmegaConf.is_missing(node, name) and isinstance(node[name], DictConfig):
            OmegaConf.set_struct(node[name], False)
