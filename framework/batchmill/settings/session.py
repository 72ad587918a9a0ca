"""One use of Hydra: schemas stored, search path set, global state put back afterwards."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from batchmill.components import Kind
from batchmill.engine.confidential import refuse_in_override
from batchmill.errors import ConfigError, PluginError
from batchmill.plugin_manager import Catalog
from batchmill.settings.explain import explain, kind_of_group, one_paragraph
from batchmill.settings.hydra_state import borrowed_hydra, keep_own_resolvers
from batchmill.settings.preset_files import SCHEME
from batchmill.settings.root import FREE_MAPPINGS, GROUPS, NAMED_KINDS, RootConfig
from batchmill.settings.safety import refuse_code, refuse_resolvers, refused_target
from batchmill.settings.schemas import schema_node

CONFIG_PACKAGE = "batchmill_conf"
CONFIG_NAME = "config"
ROOT_SCHEMA = "batchmill_root"
ALLOW_KEY = "allow_import"
# Hydra 1.3 warns without it and 1.4 will warn with it.
_VERSION_BASE = "1.3"

# Hydra keeps its state in globals, so one composition goes on at a time.
_LOCK = threading.RLock()


class Session:
    """Composes configurations against one catalog. Made by ``open_session``."""

    def __init__(self, catalog: Catalog, unusable: dict[str, PluginError]) -> None:
        self._catalog, self._unusable = catalog, unusable
        self._loader = GlobalHydra.instance().config_loader()
        self._ambiguous = _defined_twice(self._loader.get_sources())

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides and refuse those that Batchmill has no use for.

        Raises:
            ConfigError: One cannot be read, or would have no effect or run code.
        """
        for line in overrides:
            refuse_in_override(line)
        with self._explained():
            # The loader lets glob(*) find the names in a config group.
            parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(list(overrides))
        for override in parsed:
            _refuse_override(override)
        return parsed

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Return the composed configuration, resolved, as plain values; missing ones are ``"???"``.

        Raises:
            ConfigError: A name or key is unknown, a value has the wrong type, or the config would run code.
        """
        allowed = False
        for override in self.parse(overrides):
            allowed = allowed or (override.key_or_group == ALLOW_KEY and override.value() is True)
            if override.is_sweep_override():
                raise ConfigError(
                    f"{override.input_line} gives several values: add -m (--multirun) to run one job for "
                    f"each. For one list write [1,2]; for one text quote it, as in 'key=\"1,2\"'."
                )
        with self._explained():
            self._refuse_ambiguous(overrides)
            config = compose(CONFIG_NAME, overrides=list(overrides))
        raw = OmegaConf.to_container(config, resolve=False)
        refuse_code(raw)
        with self._explained():
            tree = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        assert isinstance(tree, dict)
        if tree.get(ALLOW_KEY) is True and not allowed:
            raise ConfigError(
                f"A preset sets {ALLOW_KEY}=true, which lets the configuration run code. That is for you alone to say: "
                f"write {ALLOW_KEY}=true on the command line, or choose another preset."
            )
        return {str(key): value for key, value in tree.items()}

    def _refuse_ambiguous(self, overrides: Sequence[str]) -> None:
        """Refuse a chosen name that two places define: Hydra would take the first and say nothing."""
        if not self._ambiguous:
            return
        chosen = self._loader.compute_defaults_list(CONFIG_NAME, list(overrides), RunMode.RUN)
        for default in chosen.defaults:
            places = self._ambiguous.get(default.config_path or "")
            if places:
                raise ConfigError(
                    f"{default.config_path!r} is defined in several places: {', '.join(places)}. A preset "
                    f"needs a name that no component and no other preset of its group has; rename one."
                )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            refused = _refusal_in(error)
            if refused is not None:
                raise refused from None
            missing = getattr(error, "missing_cfg_file", None)
            if missing in self._unusable:
                raise self._unusable[missing] from None
            raise explain(error, self._catalog, self._loader.get_group_options) from error
        except ValueError as error:  # a group that is none of ours, selected with something other than names
            raise ConfigError(one_paragraph(error)) from error
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "yaml":
                raise explain(error, self._catalog, self._loader.get_group_options) from error
            raise


@contextmanager
def open_session(catalog: Catalog, config_dir: str | Path | None = None) -> Iterator[Session]:
    """Make Hydra ready for a catalog, and leave its global state as it was.

    Args:
        catalog: Gives the schemas and the preset packages.
        config_dir: Folder with presets of the user's own.

    Raises:
        ConfigError: ``config_dir`` is no folder.
        PluginError: A plugin names a preset package that does not exist.
    """
    entries = [("plugin", f"pkg://{package}") for package in catalog.config_packages()]
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {str(config_dir)!r} is not a folder ({folder}).")
        entries.append(("--config-dir", f"{SCHEME}://{folder}"))
    with _LOCK, borrowed_hydra(entries):
        unusable = _store_schemas(catalog)
        with initialize_config_module(CONFIG_PACKAGE, job_name="batchmill", version_base=_VERSION_BASE):
            keep_own_resolvers()
            yield Session(catalog, unusable)


def _refusal_in(error: BaseException) -> ConfigError | None:
    """Return the error that one of our resolvers raised, from inside those that OmegaConf makes of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            key = getattr(error, "full_key", None)
            return ConfigError(f"{key}: {cause}") if key else cause
        cause = cause.__cause__ or cause.__context__
    return None


def _defined_twice(sources: Iterable[ConfigSource]) -> dict[str, list[str]]:
    """Return the names (``group/name``) that several places define, with these places."""
    places: dict[str, list[str]] = {}
    for source in sources:
        for kind in GROUPS:
            if source.available() and source.is_group(kind.value):
                for name in source.list(kind.value, ObjectType.CONFIG):
                    places.setdefault(f"{kind.value}/{name}", []).append(f"{source.provider} ({source.path})")
    return {path: found for path, found in places.items() if len(found) > 1}


def _store_schemas(catalog: Catalog) -> dict[str, PluginError]:
    """Store every component's schema; return those that cannot be used, which matters only if chosen."""
    store, unusable = ConfigStore.instance(), {}
    for kind in GROUPS:  # a group of another application with our name would offer foreign names
        store.repo.pop(kind.value, None)
    root = OmegaConf.structured(RootConfig)
    with open_dict(root):
        for key in FREE_MAPPINGS:
            OmegaConf.set_struct(root[key], False)
        for kind in GROUPS:
            root[kind.value] = {} if kind in NAMED_KINDS else None
    store.store(ROOT_SCHEMA, root, provider="batchmill")
    for component in catalog.registry:
        if component.kind not in GROUPS:
            continue
        group = component.kind.value
        package = f"{group}.{component.name}" if component.kind in NAMED_KINDS else None
        try:
            node: DictConfig = schema_node(component)
        except PluginError as error:
            unusable[f"{group}/{component.name}"] = error
            continue
        store.store(component.name, node, group=group, package=package, provider=component.plugin)
    return unusable


def _refuse_override(override: Override) -> None:
    key, line = override.key_or_group, override.input_line
    if override.is_hydra_override() or key == "hydra":
        raise ConfigError(
            f"{line} has no effect here: Batchmill composes with Hydra, but Hydra starts no job, changes no "
            f"folder and writes no file. Presets of your own are found with --config-dir."
        )
    if "_target_" in key.split("."):
        raise refused_target(key)
    refuse_resolvers(line or "", key)
    kind = kind_of_group(key)
    if kind is None or override.is_delete() or override.package is not None or override.is_sweep_override():
        return
    value = override.value()
    if kind not in NAMED_KINDS and (override.is_add() or override.is_force_add()):
        given = override.get_value_string()
        raise ConfigError(f"{line}: a run has one {kind.noun}; write {key}={given} without '+'.")
    if kind in NAMED_KINDS and isinstance(value, list):
        for name in value:
            if not isinstance(name, str):
                raise ConfigError(f"{line}: {_how_to_select(kind)}")
            if value.count(name) > 1:
                raise ConfigError(
                    f"{line} selects {name!r} twice. Add the second under a name of its own, with "
                    f"+{key}@{key}.ANOTHER={name}."
                )
    elif not isinstance(value, str):
        raise ConfigError(f"{line}: {_how_to_select(kind)}")


def _how_to_select(kind: Kind) -> str:
    if kind in NAMED_KINDS:
        key = kind.value
        return f"expected names, as in {key}=NAME, '{key}=[NAME,NAME]', or '{key}=[]' for none."
    return (
        f"expected the name of one {kind.noun}, as in {kind.value}=NAME; its settings are given beside it, "
        f"as in {kind.value}.KEY=VALUE."
    )
