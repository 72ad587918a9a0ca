"""From a composed, resolved mapping to a checked ``RunRequest``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from batchmill.components import Component, Kind
from batchmill.contracts.run import RunRequest, Selection
from batchmill.engine.confidential import refuse_plain_secrets, refuse_references
from batchmill.errors import ConfigError, UnknownComponentError
from batchmill.plugin_manager import Catalog, get_catalog
from batchmill.settings.explain import explain_value, unknown_component, unknown_key
from batchmill.settings.field_types import choices, field_types
from batchmill.settings.root import GROUPS, NAME_KEY, NAMED_KINDS, SINGLE_KINDS, RootConfig, check_ranges
from batchmill.settings.safety import escape, refuse_code
from batchmill.settings.schemas import schema_node

_IMPORT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def check(
    kind: Kind | str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    catalog: Catalog | None = None,
    *,
    where: str | None = None,
    allow_import: bool = False,
) -> Selection:
    """Check one component's name and settings.

    Args:
        kind: What it is.
        name: A registered name or alias, or ``module:attribute``.
        settings: Its settings; what is left out gets the schema's default.
        catalog: Where names are looked up; the process's own by default.
        where: Dotted key of the component, for messages; by default its config group.
        allow_import: Whether ``module:attribute`` is allowed; its settings are then unchecked.

    Returns:
        The component's own name with all of its settings as plain JSON values.

    Raises:
        UnknownComponentError: There is no such component.
        ConfigError: A setting is unknown, missing or of the wrong type.
    """
    kind = Kind(kind)
    catalog = catalog or get_catalog()
    selection, missing = _checked(kind, name, settings or {}, catalog, where or kind.value, allow_import)
    _refuse_missing(missing)
    return selection


def bind(tree: Mapping[str, Any], catalog: Catalog, given: Mapping[str, Selection] | None = None) -> RunRequest:
    """Check a whole resolved configuration.

    Args:
        tree: Plain values: the keys of ``RootConfig`` and one key per kind.
        catalog: Where names are looked up.
        given: Config key (``processor``, ``dataset``, ...) to a selection made in Python, which wins.

    Raises:
        ConfigError: Something is unknown, missing, contradictory or of the wrong type.
    """
    given = given or {}
    groups = {kind.value for kind in GROUPS}
    known = field_types(RootConfig)
    refuse_plain_secrets(tree, "")
    refuse_references(tree, ("output", "run_id", "device", "model", "sweep"))
    for key in tree:
        if key not in groups and key not in known:
            raise unknown_key("The configuration", str(key), [*known, *groups], "key")
    root = checked_root({key: value for key, value in tree.items() if key in known})
    missing: list[tuple[str, str]] = []
    chosen: dict[str, Any] = {}

    def select(kind: Kind, where: str, value: Any) -> Selection:
        name, settings = _split(kind, where, value, catalog)
        selection, lacking = _checked(kind, name, settings, catalog, where, root["allow_import"])
        missing.extend(lacking)
        return selection

    for kind in SINGLE_KINDS:
        key = kind.value
        chosen[key] = given[key] if key in given else select(kind, key, tree.get(key))
    for kind in NAMED_KINDS:
        key, nodes = kind.value, tree.get(kind.value) or {}
        if not isinstance(nodes, Mapping) or isinstance(nodes.get(NAME_KEY), str):
            raise ConfigError(
                f"{key} has no names for its entries: expected a mapping from a name of its own to each {kind.noun}. "
                f"(A preset file of {key} begins with '# @package {key}.ITS_NAME'.)"
            )
        chosen[key] = {alias: select(kind, f"{key}.{alias}", node) for alias, node in nodes.items()}
    _refuse_missing(missing)
    model = root.pop("model")
    del root["sweep"]  # of which a run knows nothing
    return RunRequest(**root, **chosen, model_name=model["name"], model_version=model["version"])


_NOT_OF_A_RUN = ("model", "sweep")


def as_config(request: RunRequest) -> dict[str, Any]:
    """Return a request in the shape of the composed configuration, for printing."""

    def node(selection: Selection) -> dict[str, Any]:
        return {NAME_KEY: selection.name, **selection.settings}

    config: dict[str, Any] = {key: getattr(request, key) for key in field_types(RootConfig) if key not in _NOT_OF_A_RUN}
    config["model"] = {"name": request.model_name, "version": request.model_version}
    for kind in SINGLE_KINDS:
        config[kind.value] = node(getattr(request, kind.value))
    for kind in NAMED_KINDS:
        config[kind.value] = {alias: node(each) for alias, each in getattr(request, kind.value).items()}
    return config


def checked_root(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top-level values, typed, with defaults for what is left out.

    Raises:
        ConfigError: A key is unknown, or a value is missing, of the wrong type or out of range.
    """
    root, missing = _merged(OmegaConf.structured(RootConfig), values, "")
    _refuse_missing([("The configuration", key) for key in missing])
    check_ranges(root)
    return root


def _split(kind: Kind, where: str, value: Any, catalog: Catalog) -> tuple[str, Mapping[str, Any]]:
    """Return a node's component name and the rest of it."""
    available = ", ".join(catalog.registry.names(kind)) or "none"
    if isinstance(value, str):
        return value, {}
    if not value and kind not in NAMED_KINDS:
        raise ConfigError(f"No {kind.noun} selected: write {kind.value}=NAME. Available: {available}.")
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}={value!r}: expected the name of a {kind.noun}, or a mapping with 'name' and its "
            f"settings. Available: {available}. (A preset file of {kind.value} begins with '# @package "
            f"{kind.value}.NAME'.)"
        )
    name = value.get(NAME_KEY)
    if not isinstance(name, str) or name == "???":
        raise ConfigError(
            f"{where} has no 'name', so no {kind.noun} is selected. A preset begins with 'defaults: "
            f"[NAME]', or has a line 'name: NAME'. Available: {available}."
        )
    return name, {key: item for key, item in value.items() if key != NAME_KEY}


def _checked(
    kind: Kind, name: str, settings: Mapping[str, Any], catalog: Catalog, where: str, allow_import: bool
) -> tuple[Selection, list[tuple[str, str]]]:
    """Return a selection and what it still lacks, as (whose, dotted key)."""
    refuse_code(escape(dict(settings)), where)
    refuse_plain_secrets(settings, where)
    if ":" in name:
        _refuse_import(kind, name, f"{where}.name", catalog, allow_import)
        return Selection(name, plain(settings)), []
    component = _find(kind, name, catalog)
    whose = f"{kind.noun} {component.name!r}"
    if NAME_KEY in settings:
        raise unknown_key(whose, NAME_KEY, field_types(component.schema))
    values, missing = _merged(schema_node(component), settings, where)
    del values[NAME_KEY]
    _check_fields(component, values, where, catalog, allow_import)
    return Selection(component.name, values), [(whose, f"{where}.{key}") for key in missing]


def _find(kind: Kind, name: str, catalog: Catalog) -> Component:
    try:
        return catalog.registry.get(kind, name)
    except UnknownComponentError:
        raise unknown_component(catalog, kind, name) from None


def _refuse_import(kind: Kind, name: str, where: str, catalog: Catalog, allow_import: bool) -> None:
    available = ", ".join(catalog.registry.names(kind)) or "none"
    if not allow_import:
        raise ConfigError(
            f"{where}={name} names code to import, which is done only where you allow it: add "
            f"allow_import=true. Registered names need no such leave: {available}."
        )
    if not _IMPORT.fullmatch(name):
        raise ConfigError(f"{where}={name} cannot be imported: expected module:attribute, as in nets:Net.")


def _merged(node: DictConfig, values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return ``values`` over the typed ``node`` as plain JSON values, and the keys that have no value yet."""
    try:
        merged = OmegaConf.merge(node, escape(dict(values)))
        container = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise explain_value(error, where) from None
    assert isinstance(container, dict)
    result: dict[str, Any] = plain(container)
    return result, sorted(OmegaConf.missing_keys(merged))


def _check_fields(
    component: Component, values: Mapping[str, Any], where: str, catalog: Catalog, allow_import: bool
) -> None:
    """Check what OmegaConf's types cannot say: the values of a Literal, and names of other components."""
    hints = field_types(component.schema)
    for field in dataclasses.fields(component.schema) if component.schema else ():
        key, value, allowed = f"{where}.{field.name}", values[field.name], choices(hints[field.name])
        if allowed is not None and value not in (*allowed, None, "???"):
            raise ConfigError(f"{key}={value}: expected one of {', '.join(map(str, allowed))}.")
        resolve = field.metadata.get("resolve")
        if resolve is None or not value or value == "???" or not isinstance(value, str):
            continue
        if ":" in value:
            _refuse_import(resolve, value, key, catalog, allow_import)
        else:
            _find(resolve, value, catalog)


def _refuse_missing(missing: list[tuple[str, str]]) -> None:
    if not missing:
        return
    owners = dict.fromkeys(whose for whose, _ in missing)
    needs = "; ".join(
        f"{whose} needs {' and '.join(key.rpartition('.')[2] for owner, key in missing if owner == whose)}"
        for whose in owners
    )
    raise ConfigError(f"A value is missing: {needs}. Write {' '.join(f'{key}=VALUE' for _, key in missing)}.")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: text keys, enum members by name, paths as text."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, PurePath) else value
