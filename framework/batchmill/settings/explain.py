"""Turns the errors of Hydra and OmegaConf into one paragraph that says what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from batchmill.components import Component, Kind
from batchmill.errors import ConfigError, UnknownComponentError, did_you_mean
from batchmill.plugin_manager import Catalog
from batchmill.settings.field_types import field_types, type_name
from batchmill.settings.root import GROUPS, NAME_KEY, NAMED_KINDS
from batchmill.settings.schemas import OWNER

_IN_PRESET = re.compile(r"In '([^']+)': ")


def one_paragraph(text: object) -> str:
    """Return a text with all white space, line ends included, as single spaces."""
    return " ".join(str(text).split())


def kind_of_group(group: str) -> Kind | None:
    """Return the kind whose config group has that name."""
    return next((kind for kind in GROUPS if kind.value == group), None)


def unknown_component(catalog: Catalog, kind: Kind, name: str, presets: Iterable[str] = ()) -> UnknownComponentError:
    """Return the error for a name that nobody registered, with the plugins that might have.

    Args:
        catalog: Where it was looked up.
        kind: What was looked for.
        name: What was given.
        presets: Names of YAML presets that could be chosen too.
    """
    registry, note = catalog.registry, ""
    for component in registry:
        if component.kind is kind and name in component.aliases:
            note = f" {name!r} is another name of {component.name!r}: write {kind.value}={component.name}."
    absent = [info for info in catalog.plugins.values() if info.status != "loaded"]
    if absent and not note:
        listed = "; ".join(f"{info.name} ({one_paragraph(info.error or info.status)})" for info in absent)
        note = f" It may belong to a plugin that is not loaded: {listed}."
    return UnknownComponentError(kind.noun, name, {*registry.names(kind), *presets}, note)


def unknown_key(whose: str, key: str, known: Iterable[str], what: str = "setting") -> ConfigError:
    """Return the error for a key that does not exist."""
    listed = sorted(known)
    return ConfigError(
        f"{whose} has no {what} {key!r}.{did_you_mean(key, listed)} It has: {', '.join(listed) or 'none'}."
    )


def explain_value(error: OmegaConfBaseException, where: str = "") -> ConfigError:
    """Return what is wrong with one value or key.

    Args:
        error: What OmegaConf said.
        where: Dotted key below which the error's own key lies.
    """
    key = ".".join(part for part in (where, str(error.full_key or "")) if part)
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return _unknown(error, key)
    hint = field_types(error.object_type).get(str(error.key))
    if isinstance(error, InterpolationResolutionError) or hint is None:
        return ConfigError(f"{key}: {one_paragraph(str(error).partition(chr(10))[0])}.")
    value = OmegaConf.to_container(error.value) if OmegaConf.is_config(error.value) else error.value
    if value is None:
        return ConfigError(f"{key}=null: expected {type_name(hint)}, got nothing.")
    return ConfigError(f"{key}={value}: expected {type_name(hint)}, got {value!r} ({type(value).__name__}).")


def _unknown(error: OmegaConfBaseException, key: str) -> ConfigError:
    """Return the error for a key that its parent does not have."""
    component: Component | None = getattr(error.object_type, OWNER, None)
    known = list(field_types(error.object_type))
    if component is not None:
        known.remove(NAME_KEY)
        return unknown_key(f"{component.kind.noun} {component.name!r}", str(error.key), known)
    inner = key.rpartition(".")[0]
    if not inner:
        known += [kind.value for kind in GROUPS]
        return unknown_key("The configuration", str(error.key), known, "key")
    if not known and isinstance(error.parent_node, DictConfig):
        known = [str(name) for name in error.parent_node]
    return unknown_key(inner, str(error.key), known, "key")


def explain(error: Exception, catalog: Catalog, options: Callable[[str], list[str]]) -> ConfigError:
    """Return a user mistake that Hydra found while composing, in our words.

    Args:
        error: What Hydra raised.
        catalog: The plugins in use.
        options: Gives the names that can be chosen in a config group.
    """
    if isinstance(error, OverrideParseException):
        said = error.message.partition("\nSee http")[0]
        said = said.removeprefix(f"Error parsing override '{error.override}'")
        return ConfigError(
            f"Override {error.override!r} cannot be read: {one_paragraph(said)}. Overrides are written "
            f"key=value; a text with spaces, commas, brackets or '=' needs quotes of its own, as in "
            f"'key=\"a, b\"'."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        kind = kind_of_group(group)
        if kind is not None:
            return unknown_component(catalog, kind, name, options(group))
        presets = list(error.options or ())
        return ConfigError(
            f"There is no preset {name!r} in config group {group!r}.{did_you_mean(name, presets)} "
            f"Available: {', '.join(presets) or 'none'}. Presets of your own are found with --config-dir."
        )
    preset = _IN_PRESET.match(str(error))
    prefix = f"In preset '{preset.group(1)}': " if preset else ""
    cause = error.__cause__ or error.__context__
    if isinstance(error, OmegaConfBaseException):
        cause = error
    if isinstance(cause, OmegaConfBaseException):
        return ConfigError(f"{prefix}{_unselected(cause, catalog) or explain_value(cause)}")
    if isinstance(error, HydraException):
        return ConfigError(f"{one_paragraph(error).rstrip('.')}.")
    return ConfigError(f"A configuration file cannot be read: {one_paragraph(error)}.")


def _unselected(error: OmegaConfBaseException, catalog: Catalog) -> str | None:
    """Say that a setting was given for a component that nobody selected."""
    if not isinstance(error, (ConfigAttributeError, ConfigKeyError)):
        return None
    group, _, rest = str(error.full_key or "").partition(".")
    kind = kind_of_group(group)
    available = ", ".join(catalog.registry.names(kind)) if kind is not None else ""
    parent = error.parent_node
    if kind is None or not rest or not isinstance(parent, DictConfig) or "name" in parent:
        return None
    if kind in NAMED_KINDS and "." not in rest:
        chosen = [str(alias) for alias in parent]
        return (
            f"No {kind.noun} is called {rest!r} in this run.{did_you_mean(rest, chosen)} "
            f"Selected: {', '.join(chosen) or 'none'}. Select with '{group}=[NAME,...]', or add one under a "
            f"name of its own with +{group}@{group}.{rest}=NAME. Available: {available}."
        )
    if kind not in NAMED_KINDS and "." not in rest:
        return (
            f"No {kind.noun} is selected, so {group}.{rest} cannot be set. Select one first with "
            f"{group}=NAME (available: {available or 'none'}), or give your own class with "
            f"+{group}.name=module:Class allow_import=true."
        )
    return None
