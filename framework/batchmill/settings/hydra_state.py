"""Hydra's global state during one composition: our plugins, schemas and resolvers in it, and nobody else's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobRuntime
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

from batchmill.engine.confidential import is_secret_variable, reference_to
from batchmill.errors import ConfigError
from batchmill.settings.preset_files import PresetSource

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REQUIRED = object()


class BatchmillSearchPath(SearchPathPlugin):
    """Adds the plugins' preset packages and the user's folder, during a session and at no other time."""

    entries: ClassVar[list[tuple[str, str]]] = []

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append this session's places; Hydra looks them up after Batchmill's own presets."""
        for provider, path in self.entries:
            search_path.append(provider, path)


@contextmanager
def borrowed_hydra(entries: list[tuple[str, str]]) -> Iterator[None]:
    """Prepare Hydra for a session and put everything back, for a caller that is a Hydra application itself.

    Args:
        entries: Provider and path of each further place with presets.
    """
    places: list[tuple[Any, str]] = [
        (GlobalHydra.instance(), "hydra"),
        (ConfigStore.instance(), "repo"),
        (VersionBase.instance(), "version_base"),
        (JobRuntime.instance(), "conf"),
        (BatchmillSearchPath, "entries"),
        (BaseContainer, "_resolvers"),
        (Singleton, "_instances"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    instance = GlobalHydra.instance()
    try:
        Singleton._instances = {**Singleton._instances, **_own_plugins()}
        BaseContainer._resolvers = dict(BaseContainer._resolvers)
        BatchmillSearchPath.entries = entries
        instance.hydra = None
        ConfigStore.instance().repo = _copied(ConfigStore.instance().repo)
        JobRuntime.instance().conf = OmegaConf.create()
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        GlobalHydra.set_instance(instance)  # Hydra itself puts a copy there


def keep_own_resolvers() -> None:
    """Leave two resolvers, inside ``borrowed_hydra``: what this process registered besides is code of whatever kind.

    The text of a configuration is searched for others as well, but only after Hydra has looked into it.
    """
    BaseContainer._resolvers = {}
    OmegaConf.register_new_resolver("oc.env", _read_environment)
    OmegaConf.register_new_resolver("secret", _keep_reference)


def _read_environment(name: str, default: Any = _REQUIRED) -> str | None:
    if is_secret_variable(name):
        raise ConfigError(
            f"${{oc.env:{name}}} looks like a secret, and would be written to run folders and logs. "
            f"Write {reference_to(name)}, which is read only where it is needed."
        )
    if name in os.environ:
        return os.environ[name]
    if default is _REQUIRED:
        raise ConfigError(f"Environment variable {name!r} not found. Set it, or write ${{oc.env:{name},DEFAULT}}.")
    return None if default is None else str(default)


def _keep_reference(name: Any) -> str:
    """A secret stays a reference in every configuration; see ``batchmill.engine.confidential``."""
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise ConfigError(f"${{secret:{name}}} names no environment variable: expected ${{secret:NAME}}.")
    return reference_to(name)


_plugins: dict[type, Any] = {}


def _own_plugins() -> dict[type, Any]:
    """Return Hydra's plugin registries without other people's plugins.

    Hydra imports every module of the package ``hydra_plugins`` when it starts, whoever installed it, and we have no
    use for any.
    """
    if not _plugins:
        registries: list[Any] = [Plugins, SourcesRegistry]
        instances, hidden = Singleton._instances, sys.modules.get("hydra_plugins", _REQUIRED)
        Singleton._instances = {key: value for key, value in instances.items() if key not in registries}
        sys.modules["hydra_plugins"] = None  # type: ignore[assignment] # makes its import fail, as if it were not there
        try:
            Plugins.instance().register(BatchmillSearchPath)
            Plugins.instance().register(PresetSource)
            _plugins.update({key: Singleton._instances[key] for key in registries})
        finally:
            Singleton._instances = instances
            del sys.modules["hydra_plugins"]
            if hidden is not _REQUIRED:
                sys.modules["hydra_plugins"] = hidden  # type: ignore[assignment]
    return _plugins


def _copied(repo: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in repo.items()}
