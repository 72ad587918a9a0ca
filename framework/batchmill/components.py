"""Components: names that plugins register, each with a factory, a schema and the plugin it came from."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, get_type_hints

from batchmill.errors import DuplicateComponentError, PluginError, UnknownComponentError, did_you_mean


class Kind(StrEnum):
    """The kinds of components; each is a config group of the same name."""

    PROCESSOR = "processor"
    DATASET = "dataset"
    REDUCER = "reducers"
    WRITER = "writer"
    STORAGE = "storage"
    TRACKER = "tracker"
    CLAIMS = "claims"
    LAUNCHER = "launcher"
    CALLBACK = "callbacks"
    BUILDER = "builder"
    FUNCTION = "function"

    @property
    def noun(self) -> str:
        """The kind in the singular, for messages."""
        return {"reducers": "reducer", "callbacks": "callback"}.get(self.value, self.value)


# What the engine passes to a factory before the settings; such parameters are not part of the schema.
RUNTIME_ARGUMENTS: dict[Kind, tuple[str, ...]] = {
    Kind.PROCESSOR: ("context",),
    Kind.STORAGE: ("url",),
    Kind.TRACKER: ("output",),
    Kind.CLAIMS: ("scope",),
}
# Kinds whose registered object is used as it is, by other components' settings, and so has no config group.
PLAIN_KINDS = (Kind.BUILDER, Kind.FUNCTION)

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Component:
    """One registered name.

    Attributes:
        kind: What it is.
        name: The name that config uses.
        factory: A callable, or ``"module:attribute"`` of one, imported when the component is first built.
        schema: Dataclass of the settings, or None for plain kinds.
        plugin: Name of the plugin that registered it.
        version: Version of that plugin's distribution, as ``name==version``.
        aliases: Other names for the same thing; a storage's aliases are the URL schemes it serves.
        summary: One line for people.
    """

    kind: Kind
    name: str
    factory: Callable[..., Any] | str
    schema: type[Any] | None
    plugin: str
    version: str
    aliases: tuple[str, ...] = ()
    summary: str = ""

    def load(self) -> Callable[..., Any]:
        """Return the factory, importing it if it was registered by path.

        Raises:
            PluginError: The import failed; the message names the plugin and the missing module.
        """
        if not isinstance(self.factory, str):
            return self.factory
        module_name, _, attribute = self.factory.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise PluginError(
                f"{self.kind.noun} {self.name!r} of plugin {self.plugin} needs a module that cannot be "
                f"imported: {error}. Install what the plugin's documentation names for it."
            ) from error
        try:
            found: Callable[..., Any] = getattr(module, attribute)
        except AttributeError:
            raise PluginError(
                f"{self.kind.noun} {self.name!r} of plugin {self.plugin} is registered as {self.factory!r}, "
                f"but module {module_name!r} has no {attribute!r}.{did_you_mean(attribute, vars(module))}"
            ) from None
        return found


def setting(resolve: Kind | None = None, fingerprint: bool = True, file: bool = False, **kwargs: Any) -> Any:
    """Return a dataclass field for a schema with Batchmill's own properties.

    Args:
        resolve: The value is the name of a registered component of this kind (or ``module:attribute`` where
            imports are allowed); the factory receives the registered object in its place.
        fingerprint: Whether a change of this setting may change results, and is so refused on resume.
        file: The value is the path of a file whose contents, not its path, may change results; empty: no file.
        **kwargs: As for ``dataclasses.field``.
    """
    return dataclasses.field(metadata={"resolve": resolve, "fingerprint": fingerprint, "file": file}, **kwargs)


class ComponentRegistry:
    """All components of the process, by kind and name. Plugins receive it in ``register_components``."""

    def __init__(self) -> None:
        self._components: dict[tuple[Kind, str], Component] = {}
        self._owner = ("python", "python")

    def add(
        self,
        kind: Kind,
        name: str,
        factory: Callable[..., Any] | str,
        *,
        schema: type[Any] | None = None,
        aliases: tuple[str, ...] = (),
        summary: str = "",
    ) -> None:
        """Register a component.

        Args:
            kind: What it is.
            name: The name that config uses: letters, digits and ``_``.
            factory: Called as ``factory(*runtime arguments of its kind, **settings)``. ``"module:attribute"``
                puts the import off until the component is used, which keeps heavy imports out of ``--help``.
            schema: Dataclass of the settings; derived from the factory's signature if left out.
            aliases: Other names.
            summary: One line for people; by default the first line of the factory's docstring.

        Raises:
            PluginError: The name has another form, or no schema can be derived.
            DuplicateComponentError: Another plugin (or this one) has registered the name.
        """
        plugin, version = self._owner
        kind = Kind(kind)
        for each in (name, *aliases):
            if not _NAME.fullmatch(each):
                raise PluginError(
                    f"Plugin {plugin} registers {kind.noun} {each!r}; a name starts with a letter and has "
                    f"only letters, digits and '_'."
                )
            taken = self._components.get((kind, each))
            if taken is not None:
                raise DuplicateComponentError(kind.noun, each, (taken.plugin, plugin))
        if schema is None and kind not in PLAIN_KINDS:
            if isinstance(factory, str):
                raise PluginError(
                    f"Plugin {plugin} registers {kind.noun} {name!r} by path ({factory}) and must give its schema."
                )
            schema = schema_from_signature(kind, name, factory)
        if schema is not None and not dataclasses.is_dataclass(schema):
            raise PluginError(f"The schema of {kind.noun} {name!r} of plugin {plugin} is {schema!r}, not a dataclass.")
        if schema is not None and "name" in {field.name for field in dataclasses.fields(schema)}:
            raise PluginError(
                f"The schema of {kind.noun} {name!r} of plugin {plugin} has a field 'name', which config "
                f"needs for the component's own name. Call it something else."
            )
        if not summary:
            summary = _first_line(schema if isinstance(factory, str) else factory)
        component = Component(kind, name, factory, schema, plugin, version, tuple(aliases), summary)
        for each in (name, *aliases):
            self._components[kind, each] = component

    def get(self, kind: Kind, name: str) -> Component:
        """Return a component by name or alias.

        Raises:
            UnknownComponentError: There is none; the message lists what there is.
        """
        try:
            return self._components[kind, name]
        except KeyError:
            raise UnknownComponentError(kind.noun, name, self.names(kind)) from None

    def names(self, kind: Kind) -> list[str]:
        """Return the sorted names (without aliases) of a kind."""
        return sorted({c.name for (k, _), c in self._components.items() if k is kind})

    def __iter__(self) -> Iterator[Component]:
        """Yield every component once, ordered by kind and name."""
        order = list(Kind)
        unique = {(c.kind, c.name): c for c in self._components.values()}
        yield from sorted(unique.values(), key=lambda c: (order.index(c.kind), c.name))

    @contextmanager
    def owned_by(self, plugin: str, version: str) -> Iterator[None]:
        """Attribute all ``add`` calls inside to a plugin; if it raises, none of them stay."""
        before, owner = dict(self._components), self._owner
        self._owner = (plugin, version)
        try:
            yield
        except BaseException:
            self._components = before
            raise
        finally:
            self._owner = owner


def schema_from_signature(kind: Kind, name: str, factory: Callable[..., Any]) -> type[Any]:
    """Derive the settings dataclass of a factory from its signature.

    Args:
        kind: Decides which leading parameters the engine supplies.
        name: Used for the dataclass's name and in messages.
        factory: A class or function; every further parameter becomes a field with its annotation and default.

    Raises:
        PluginError: The factory takes ``*args``, ``**kwargs`` or positional-only settings, or tells no signature.
    """
    runtime = RUNTIME_ARGUMENTS.get(kind, ())
    try:
        target = factory.__init__ if inspect.isclass(factory) else factory
        hints = get_type_hints(target)
    except (NameError, TypeError):  # names under TYPE_CHECKING only: fall back to untyped settings
        hints = {}
    try:
        parameters = list(inspect.signature(factory).parameters.values())[len(runtime) :]
    except ValueError as error:  # classes and functions written in C may have none
        raise PluginError(
            f"No schema can be derived for {kind.noun} {name!r}: its factory {factory!r} tells no signature. "
            f"Register it with schema=YourDataclass."
        ) from error
    specs: list[Any] = []
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise PluginError(
                f"No schema can be derived for {kind.noun} {name!r}: parameter {parameter} of its factory "
                f"is not a plain named parameter. Register it with schema=YourDataclass."
            )
        hint = hints.get(parameter.name, Any)
        default = parameter.default
        if default is parameter.empty:
            specs.append((parameter.name, hint, dataclasses.field()))
        elif isinstance(default, (list, dict, set)):
            specs.append((parameter.name, hint, dataclasses.field(default_factory=partial(copy.copy, default))))
        else:
            specs.append((parameter.name, hint, dataclasses.field(default=default)))
    specs.sort(key=lambda spec: _has_default(spec[2]))  # dataclasses want required fields first
    return dataclasses.make_dataclass(f"{name}_settings", specs)


def _first_line(described: Any) -> str:
    """Return the first line of an object's own docstring: not a base's, and not one made by ``dataclass``."""
    doc = getattr(described, "__doc__", None) or ""
    made = dataclasses.is_dataclass(described) and doc.startswith(f"{getattr(described, '__name__', '')}(")
    return "" if made else inspect.cleandoc(doc).partition("\n")[0]


def _has_default(spec: dataclasses.Field[Any]) -> bool:
    return spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
