"""Presets from a folder that a user names: YAML of moderate size, from inside that folder, and nothing else."""

from __future__ import annotations

import os

import yaml  # type: ignore[import-untyped] # it ships no types
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

SCHEME = "preset"
# A preset is a page of settings; these bounds are far beyond any, and keep a file from filling the memory.
MOST_BYTES = 1 << 20
MOST_NODES = 50_000
MOST_DEPTH = 40


class PresetSource(FileConfigSource):
    """Hydra's source of configuration files, for folders that are not ours."""

    @staticmethod
    def scheme() -> str:
        """Return the scheme of such a folder's entry on the search path."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """Load one preset.

        Raises:
            ConfigLoadError: It is not inside the folder, or no YAML of moderate size without aliases.
        """
        folder = os.path.realpath(self.path)
        file = os.path.realpath(os.path.join(folder, self._normalize_file_name(config_path)))
        if os.path.commonpath([folder, file]) != folder:
            raise ConfigLoadError(f"Preset {config_path!r} leads out of {folder}, to {file}.")
        if os.path.isfile(file):
            with open(file, "rb") as opened:
                data = opened.read(MOST_BYTES + 1)
            fault = fault_of(data)
            if fault:
                raise ConfigLoadError(f"Preset {file} {fault}.")
        return super().load_config(config_path)


def fault_of(data: bytes) -> str:
    """Return what keeps a YAML text from being a preset, or an empty string; nothing is built from it.

    Args:
        data: The beginning of the file, one byte more than allowed at most.

    Raises:
        yaml.YAMLError: It is no YAML.
    """
    if len(data) > MOST_BYTES:
        return f"is larger than {MOST_BYTES >> 20} MiB"
    depth = nodes = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            return (
                f"has an alias, *{event.anchor}: aliases of aliases multiply without end; refer to keys with ${{key}}"
            )
        if depth > MOST_DEPTH:
            return f"is nested more than {MOST_DEPTH} levels deep"
        if nodes > MOST_NODES:
            return f"has more than {MOST_NODES:,} values"
    return ""
