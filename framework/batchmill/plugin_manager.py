"""Discovery of plugins (the catalog) and the per-run manager of the selected components."""

from __future__ import annotations

import importlib.resources
import inspect
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from batchmill.components import ComponentRegistry
from batchmill.errors import ConfigError, MissingHookimplError, PluginError, did_you_mean
from batchmill.hookspecs import CatalogSpecs, RunSpecs
from batchmill.markers import PROJECT

ENABLE_VARIABLE = "BATCHMILL_PLUGINS"
DISABLE_VARIABLE = "BATCHMILL_DISABLE_PLUGINS"


@dataclass(frozen=True)
class PluginInfo:
    """What is known of one installed plugin.

    Attributes:
        name: Name of its entry point.
        module: Module that the entry point names.
        version: Its distribution as ``name==version``.
        status: "loaded", "disabled" or "failed".
        error: Why it failed; empty otherwise.
    """

    name: str
    module: str
    version: str
    status: str
    error: str = ""


class Catalog:
    """All plugins of the process and the components they offer.

    Discovery is in the order of sorted entry-point names and never depends on how they were installed. A plugin
    that fails, at import or at registration, is kept in ``plugins`` with its error and harms no other.
    """

    def __init__(self) -> None:
        self.registry = ComponentRegistry()
        self.plugins: dict[str, PluginInfo] = {}
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(CatalogSpecs)
        # Historic: every plugin registered from now on is asked at once, alone, inside ``register``.
        self._manager.hook.register_components.call_historic(kwargs={"registry": self.registry})

    def discover(self, environ: Mapping[str, str] = os.environ) -> None:
        """Load the installed plugins that the environment allows.

        Args:
            environ: ``BATCHMILL_PLUGINS`` (only these) and ``BATCHMILL_DISABLE_PLUGINS`` (not these) hold
                comma-separated plugin names.

        Raises:
            ConfigError: One of the variables names a plugin that is not installed.
        """
        found = sorted(entry_points(group=PROJECT), key=lambda point: (point.name, point.value))
        names = {point.name for point in found}
        only = _names_in(environ, ENABLE_VARIABLE, names)
        without = _names_in(environ, DISABLE_VARIABLE, names) or set()
        for point in found:
            version = f"{point.dist.name}=={point.dist.version}" if point.dist else "unknown"
            if (only is not None and point.name not in only) or point.name in without:
                self.plugins[point.name] = PluginInfo(point.name, point.value, version, "disabled")
            elif point.name in self.plugins:
                other = self.plugins[point.name]
                message = f"the name {point.name!r} is already that of {other.module} ({other.version})"
                key = f"{point.name} ({point.value})"
                self.plugins[key] = PluginInfo(key, point.value, version, "failed", message)
            else:
                self._load(point, version)

    def _load(self, point: EntryPoint, version: str) -> None:
        try:
            plugin = point.load()
            self.register(plugin, point.name, version)
        except Exception as error:  # a foreign plugin may fail in any way; its error is kept and shown
            message = f"{type(error).__name__}: {error}"
            self.plugins[point.name] = PluginInfo(point.name, point.value, version, "failed", message)

    def register(self, plugin: object, name: str, version: str = "python") -> None:
        """Register a plugin module or object, as discovery does; all of it or nothing.

        Raises:
            PluginError: It has no marked hook, a misspelt one, or a hook without its marker.
            DuplicateComponentError: It offers a name that another plugin has.
        """
        _refuse_unmarked(plugin, CatalogSpecs, name)
        with self.registry.owned_by(name, version):
            try:
                self._manager.register(plugin, name=name)
                self._manager.check_pending()
                if not self._manager.get_hookcallers(plugin):
                    raise PluginError(
                        f"Plugin {name} implements no hook. A plugin module has a function "
                        f"'register_components(registry)' marked with @batchmill.hookimpl."
                    )
            except BaseException as error:
                if self._manager.is_registered(plugin):
                    self._manager.unregister(plugin)
                if isinstance(error, pluggy.PluginValidationError):
                    raise PluginError(f"Plugin {name} does not fit the hooks: {error}") from error
                raise
        module = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__name__
        self.plugins[name] = PluginInfo(name, module, version, "loaded")

    def config_packages(self) -> list[str]:
        """Return the preset packages of all plugins, in plugin order.

        Raises:
            PluginError: A package does not exist; Hydra would pass over it in silence.
        """
        packages: list[str] = []
        for name in sorted(self.plugins):
            plugin = self._manager.get_plugin(name)
            if plugin is None or not hasattr(plugin, "config_packages"):
                continue
            for package in plugin.config_packages():
                try:
                    importlib.resources.files(package)
                except ModuleNotFoundError as error:
                    raise PluginError(
                        f"Plugin {name} ships presets in package {package!r}, which cannot be found: {error}."
                    ) from error
                packages.append(package)
        return packages

    def failures(self) -> list[PluginInfo]:
        """Return the plugins that could not be loaded."""
        return [info for info in self.plugins.values() if info.status == "failed"]


@cache
def get_catalog() -> Catalog:
    """Return the process's catalog, discovering plugins at the first call."""
    catalog = Catalog()
    catalog.discover()
    return catalog


def make_run_manager(components: Iterable[tuple[str, object]]) -> pluggy.PluginManager:
    """Return the manager that tells one run's components what happens.

    Args:
        components: The selected instances with their config keys, in config order, which becomes the call order.

    Raises:
        MissingHookimplError: A component has a method named like a run hook without the marker.
        PluginError: A marked method does not fit its specification.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RunSpecs)
    for key, component in reversed(list(components)):  # pluggy calls the last registered first
        _refuse_unmarked(component, RunSpecs, key)
        try:
            manager.register(component, name=key)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"Component {key} does not fit the run hooks: {error}") from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"A component marks a method that is no run hook: {error}") from error
    return manager


def _refuse_unmarked(component: object, specs: type, name: str) -> None:
    for hook in _hook_names(specs):
        method = getattr(component, hook, None)
        if callable(method) and not hasattr(method, f"{PROJECT}_impl"):
            raise MissingHookimplError(name, hook)


def _hook_names(specs: type) -> list[str]:
    return [name for name, value in vars(specs).items() if hasattr(value, f"{PROJECT}_spec")]


def _names_in(environ: Mapping[str, str], variable: str, known: set[str]) -> set[str] | None:
    if variable not in environ:
        return None
    names = {name.strip() for name in environ[variable].split(",") if name.strip()}
    for name in sorted(names - known):
        raise ConfigError(
            f"{variable} names plugin {name!r}, which is not installed.{did_you_mean(name, known)} "
            f"Installed: {', '.join(sorted(known)) or 'none'}."
        )
    return names
