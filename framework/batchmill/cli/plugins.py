"""``batchmill plugins``: what there is to choose from."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from batchmill.cli.display import console, show_json, show_table
from batchmill.components import Component, Kind
from batchmill.errors import did_you_mean


def _kind(ctx: click.Context, param: click.Parameter, value: str | None) -> Kind | None:
    """Return the kind of that name: its config group's, or its singular."""
    names = {name: kind for kind in Kind for name in (kind.noun, kind.value)}
    if value is not None and value not in names:
        listed = ", ".join(kind.value for kind in Kind)
        raise click.BadParameter(f"There is no kind {value!r}.{did_you_mean(value, names)} Kinds: {listed}.")
    return names[value] if value is not None else None


@click.command()
@click.argument("kind", required=False, callback=_kind)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(kind: Kind | None, as_json: bool) -> None:
    """List components, their settings and plugins.

    KIND restricts the list: processor, dataset, reducers, writer, storage, tracker, claims, launcher, callbacks,
    builder or function. A setting is shown as name: type=default, or as name: type! where it must be given.

    \b
      batchmill plugins
      batchmill plugins reducers
      batchmill plugins dataset --json | jq '.components[].name'

    \b
    Restrict what is loaded (comma-separated plugin names):
      BATCHMILL_PLUGINS=processors,datasets batchmill plugins
      BATCHMILL_DISABLE_PLUGINS=acme batchmill plugins
    """  # noqa: D301 - click's mark
    from batchmill.plugin_manager import get_catalog

    catalog = get_catalog()
    components = [component for component in catalog.registry if kind is None or component.kind is kind]
    if as_json:
        show_json(
            {
                "components": [_component_json(component) for component in components],
                "plugins": [dataclasses.asdict(info) for _, info in sorted(catalog.plugins.items())],
            }
        )
        return
    show_table(
        ("kind", "name", "settings", "plugin", "version", "summary"),
        [
            (each.kind.value, each.name, _settings_line(each), each.plugin, each.version, each.summary)
            for each in components
        ],
    )
    absent = [info for _, info in sorted(catalog.plugins.items()) if info.status != "loaded"]
    if absent:
        show_table(
            ("plugin", "version", "status", "error"),
            [(info.name, info.version, info.status, " ".join(info.error.split())) for info in absent],
            title="Not loaded",
        )


def _settings_line(component: Component) -> str:
    separator = ",\n" if console().is_terminal else ", "
    parts = []
    for setting in settings_of(component):
        shown = f"{setting['name']}: {setting['type']}"
        parts.append(f"{shown}!" if setting["required"] else f"{shown}={json.dumps(setting['default'], default=str)}")
    return separator.join(parts)


def settings_of(component: Component) -> list[dict[str, Any]]:
    """Return a component's settings as JSON values: name, type in words, default, required."""
    from batchmill.settings.field_types import field_types, type_name

    hints = field_types(component.schema)
    described = []
    for field in dataclasses.fields(component.schema) if component.schema is not None else ():
        default: Any = None
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        described.append(
            {
                "name": field.name,
                "type": type_name(hints[field.name]),
                "default": getattr(default, "name", default) if not isinstance(default, str) else default,
                "required": required,
            }
        )
    return described


def _component_json(component: Component) -> dict[str, Any]:
    return {
        "kind": component.kind.value,
        "name": component.name,
        "aliases": list(component.aliases),
        "plugin": component.plugin,
        "version": component.version,
        "summary": component.summary,
        "settings": settings_of(component),
    }
