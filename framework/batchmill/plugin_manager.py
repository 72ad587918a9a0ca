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

    Discovery is in the order of sorted entry-point names and never depends on how they were installed. A
    plugin that fails, at import or at registration, is kept in ``plugins`` with its error and harms no other.
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
        except (Exception, SystemExit) as error:  # a foreign plugin may fail in any way; its error is shown
            message = f"{type(error).__name__}: {error}"
            self.plugins[point.name] = PluginInfo(point.name, point.value, version, "failed", message)

    def register(self, plugin: object, name: str, version: str = "python") -> None:
        """Register a plugin module or object, as discovery does; all of it or nothing.

        Raises:
            PluginError: It has no marked hook, a misspelt one, or a hook without its marker; or it, or
                another plugin of that name, is registered already.
            DuplicateComponentError: It offers a name that another plugin has.
        """
        if self._manager.has_plugin(name):
            raise PluginError(f"A plugin named {name!r} is registered already: {self.plugins[name].module}.")
        if self._manager.is_registered(plugin):
            raise PluginError(f"Plugin {name} is registered already, as {self._manager.get_name(plugin)!r}.")
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
                    raise PluginError(f"Plugin {name} does not fit the hooks: {_flat(error)}") from error
                raise
        module = plugin.__name__ if inspect.ismodule(plugin) else type(plugin).__name__
        self.plugins[name] = PluginInfo(name, module, version, "loaded")

    def config_packages(self) -> list[str]:
        """Return the preset packages of all plugins, ordered by plugin name.

        Raises:
            PluginError: A package does not exist (Hydra would pass over it in silence), or the hook fails.
        """
        packages: list[str] = []
        hooks = self._manager.hook.config_packages.get_hookimpls()
        for hook in sorted(hooks, key=lambda hook: hook.plugin_name):
            instead = f"Repair the plugin, or leave it out with {DISABLE_VARIABLE}={hook.plugin_name}."
            try:
                offered: Any = hook.function()
            except Exception as error:
                raise PluginError(
                    f"Plugin {hook.plugin_name} fails to name its preset packages: {type(error).__name__}: "
                    f"{error}. {instead}"
                ) from error
            if isinstance(offered, str):
                raise PluginError(
                    f"Plugin {hook.plugin_name} gives its preset packages as the text {offered!r}; expected "
                    f"a list of names. {instead}"
                )
            for package in offered:
                try:
                    importlib.resources.files(package)
                except (ImportError, TypeError, ValueError) as error:
                    raise PluginError(
                        f"Plugin {hook.plugin_name} ships presets in package {package!r}, which cannot be "
                        f"found: {error}. {instead}"
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
        components: The selected instances with their config keys, in config order, which becomes call order.

    Raises:
        MissingHookimplError: A component has a method named like a run hook without the marker.
        PluginError: A marked method does not fit its specification.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(RunSpecs)
    for key, component in reversed(list(components)):  # pluggy calls the last registered first
        _refuse_unmarked(component, RunSpecs, key)
        try:
            manager.register(_Hooks(component), name=key)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"Component {key} does not fit the run hooks: {_flat(error)}") from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"A component marks a method that is no run hook: {_flat(error)}") from error
    return manager


class _Hooks:
    """The marked methods of one component.

    They are registered in the component's place because pluggy compares plugins with ``==``: two callbacks
    that are equal dataclasses are still two callbacks, and ``==`` of an array is no answer at all.
    """

    def __init__(self, component: object) -> None:
        for name in dir(component):
            if _is_marked(_static(component, name)):
                setattr(self, name, getattr(component, name))


def _refuse_unmarked(component: object, specs: type, name: str) -> None:
    for hook in _hook_names(specs):
        method = _static(component, hook)
        if callable(method) and not _is_marked(method):
            raise MissingHookimplError(name, hook)


def _static(component: object, name: str) -> object:
    """Return an attribute without running properties or ``__getattr__``: they load data or invent methods."""
    found = inspect.getattr_static(component, name, None)
    return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_marked(method: object) -> bool:
    return inspect.isroutine(method) and hasattr(method, f"{PROJECT}_impl")


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
