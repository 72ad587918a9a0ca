"""Turns the names in a request into component instances."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchmill.components import Component, ComponentRegistry, Kind
from batchmill.contracts.run import RunRequest, Selection
from batchmill.contracts.storage import Storage
from batchmill.engine.confidential import redact, reveal
from batchmill.errors import ConfigError, PluginError, did_you_mean

_SINGLE = {
    "processor": Kind.PROCESSOR,
    "dataset": Kind.DATASET,
    "writer": Kind.WRITER,
    "storage": Kind.STORAGE,
    "tracker": Kind.TRACKER,
    "claims": Kind.CLAIMS,
    "launcher": Kind.LAUNCHER,
}


class Assembler:
    """Builds components by name, for one process.

    Args:
        registry: All registered components.
        allow_import: Whether ``module:attribute`` may be imported in place of a registered name.
    """

    def __init__(self, registry: ComponentRegistry, allow_import: bool = False) -> None:
        self.registry = registry
        self._allow_import = allow_import

    def complete(self, request: RunRequest) -> RunRequest:
        """Return the request with every name checked and every unset setting at its schema's default.

        Raises:
            ConfigError: A name or a setting is unknown, or a required setting is missing.
        """
        changes: dict[str, Any] = {
            key: self.complete_one(kind, key, getattr(request, key)) for key, kind in _SINGLE.items()
        }
        for key, kind in (("reducers", Kind.REDUCER), ("callbacks", Kind.CALLBACK)):
            chosen: Mapping[str, Selection] = getattr(request, key)
            changes[key] = {alias: self.complete_one(kind, f"{key}.{alias}", item) for alias, item in chosen.items()}
        return dataclasses.replace(request, **changes)

    def complete_one(self, kind: Kind, key: str, selection: Selection) -> Selection:
        """Return one selection checked and completed; ``key`` is where config has it, for messages."""
        if selection.instance is not None or ":" in selection.name:
            return selection
        component = self.registry.get(kind, selection.name)
        fields = dataclasses.fields(component.schema) if component.schema else ()
        known = [field.name for field in fields]
        for name in selection.settings:
            if name not in known:
                raise ConfigError(
                    f"{kind.noun} {component.name!r} has no setting {name!r}.{did_you_mean(name, known)} "
                    f"It has: {', '.join(known) or 'none'}."
                )
        settings: dict[str, Any] = {}
        for field in fields:
            if field.name in selection.settings:
                settings[field.name] = selection.settings[field.name]
            elif field.default is not dataclasses.MISSING:
                settings[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                settings[field.name] = field.default_factory()
            else:
                raise ConfigError(f"{kind.noun} {component.name!r} needs a value for {key}.{field.name}.")
        return Selection(component.name, settings)

    def build(self, kind: Kind, selection: Selection, *runtime: Any) -> Any:
        """Return the instance of a completed selection.

        Args:
            kind: The kind of component.
            selection: What was chosen; a live object is returned as it is, a live class is called.
            *runtime: What the engine passes to factories of this kind.

        Raises:
            ConfigError: The settings do not fit the factory.
        """
        if selection.instance is not None:
            return selection.instance(*runtime) if isinstance(selection.instance, type) else selection.instance
        if ":" in selection.name:
            imported = self._import(kind, selection.name)
            return self._call(kind, selection.name, imported, runtime, reveal(selection.settings, kind.value))
        component = self.registry.get(kind, selection.name)
        revealed = reveal(selection.settings, kind.value)
        settings = {name: self._resolved(component, name, value) for name, value in revealed.items()}
        return self._call(kind, selection.name, component.load(), runtime, settings)

    def resolve(self, kind: Kind, name: str) -> Any:
        """Return the registered object (or class, or factory) of a name, or the import ``module:attribute``."""
        return self._import(kind, name) if ":" in name else self.registry.get(kind, name).load()

    def _resolved(self, component: Component, name: str, value: Any) -> Any:
        fields = {field.name: field for field in dataclasses.fields(component.schema)} if component.schema else {}
        kind = fields[name].metadata.get("resolve") if name in fields else None
        return self.resolve(kind, value) if kind is not None and value else value

    def _call(self, kind: Kind, name: str, factory: Any, runtime: tuple[Any, ...], settings: Mapping[str, Any]) -> Any:
        if not callable(factory):
            raise ConfigError(f"{kind.noun} {name!r} is a {type(factory).__name__} and cannot be called to build one.")
        try:
            inspect.signature(factory).bind(*runtime, **settings)
        except TypeError as error:
            raise ConfigError(f"{kind.noun} {name!r} does not take these settings: {error}.") from error
        except ValueError:  # no signature to be had (some classes written in C): the call itself will tell
            pass
        try:
            return factory(*runtime, **settings)
        except Exception as error:
            shown = redact(str(error))
            if shown == str(error):
                raise
            # Without its cause, which would show the secret.
            raise ConfigError(f"{kind.noun} {name!r} cannot be built: {type(error).__name__}: {shown}") from None

    def _import(self, kind: Kind, name: str) -> Any:
        if not self._allow_import:
            raise ConfigError(
                f"{kind.noun} {name!r} names code to import, which config may only do with allow_import=true. "
                f"Registered: {', '.join(self.registry.names(kind)) or 'none'}."
            )
        module_name, _, attribute = name.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:  # a console script does not see the working directory by itself
            sys.path.insert(0, here)
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ConfigError(f"{kind.noun} {name!r}: module {module_name!r} cannot be imported: {error}.") from error
        if not hasattr(module, attribute):
            raise ConfigError(
                f"{kind.noun} {name!r}: module {module_name!r} has no {attribute!r}."
                f"{did_you_mean(attribute, vars(module))}"
            )
        return getattr(module, attribute)


def open_storage(assembler: Assembler, url: str, selection: Selection | None = None) -> Storage:
    """Return the storage of a directory or URL.

    Args:
        assembler: Builds it.
        url: A path, or a URL whose scheme is a storage's name or alias.
        selection: The storage that config selected; None chooses by the scheme.

    Raises:
        ConfigError: The URL's scheme is not one that the selected storage serves, or nobody serves it.
    """
    registry = assembler.registry
    if selection is None or (selection.instance is None and ":" not in selection.name):
        serving = registry.get(Kind.STORAGE, url.partition("://")[0] if "://" in url else "local")
        if selection is None:
            selection = assembler.complete_one(Kind.STORAGE, "storage", Selection(serving.name))
        elif registry.get(Kind.STORAGE, selection.name) is not serving:
            raise ConfigError(
                f"Storage {selection.name!r} does not serve {url!r}; storage {serving.name!r} does. "
                f"Set storage={serving.name}, or change output."
            )
    storage = assembler.build(Kind.STORAGE, selection, url)
    if not isinstance(storage, Storage):
        raise PluginError(f"Storage {selection.name!r} is a {type(storage).__name__}; expected a batchmill.Storage.")
    return storage
