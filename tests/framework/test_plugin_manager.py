import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchmill
from batchmill.components import ComponentRegistry, Kind
from batchmill.errors import ConfigError, DuplicateComponentError, MissingHookimplError, PluginError
from batchmill.plugin_manager import Catalog, get_catalog


class Made:
    pass


class Shout:
    """A plugin object with one component."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @batchmill.hookimpl
    def register_components(self, registry: ComponentRegistry) -> None:
        for name in self.names:
            registry.add(Kind.WRITER, name, Made)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution with one module as a plugin, on a path of its own; modules are forgotten again."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def install(entry_point: str, source: str, *, module: str | None = None, dist: str | None = None) -> None:
        module = module or f"batchmill_test_{entry_point}"
        dist = dist or f"dist-{entry_point}"
        made.append(module)
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        info = tmp_path / f"{dist.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[batchmill]\n{entry_point} = {module}\n")

    yield install
    for module in made:
        sys.modules.pop(module, None)


GOOD = """
    import batchmill

    class Made:
        pass

    @batchmill.hookimpl
    def register_components(registry):
        registry.add(batchmill.Kind.WRITER, "{name}", Made)
"""


class TestDiscovery:
    def test_finds_an_installed_plugin_with_its_version(self, site: Callable[..., None]) -> None:
        site("zz_acme", GOOD.format(name="acme_writer"))
        catalog = Catalog()
        catalog.discover({})
        component = catalog.registry.get(Kind.WRITER, "acme_writer")
        assert (component.plugin, component.version) == ("zz_acme", "dist-zz_acme==1.5")
        assert catalog.plugins["zz_acme"].status == "loaded"

    def test_first_party_plugins_come_the_same_way(self) -> None:
        catalog = Catalog()
        catalog.discover({})
        component = catalog.registry.get(Kind.STORAGE, "local")
        assert component.plugin == "storage"
        assert component.version == f"batchmill=={batchmill.__version__}"

    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
            ("def broken(:", "SyntaxError"),
            ("1 / 0", "ZeroDivisionError"),
            ("import sys; sys.exit('not today')", "SystemExit: not today"),
            ("x = 1", "implements no hook"),
            ("def register_components(registry): ...", "not marked with @batchmill.hookimpl"),
            (
                "import batchmill\n@batchmill.hookimpl\ndef register_component(registry): ...",
                "unknown hook 'register_component'",
            ),
            (
                "import batchmill\n@batchmill.hookimpl\ndef register_components(register): ...",
                "does not fit the hooks",
            ),
            (
                GOOD.format(name="half") + "\n        raise RuntimeError('after one')",
                "RuntimeError: after one",
            ),
        ],
    )
    def test_a_broken_plugin_is_named_and_harms_no_other(
        self, site: Callable[..., None], source: str, error: str
    ) -> None:
        site("aa_broken", source)
        site("zz_good", GOOD.format(name="good_writer"))
        catalog = Catalog()
        catalog.discover({})
        assert [info.name for info in catalog.failures() if info.name.startswith("aa_")] == ["aa_broken"]
        assert error in catalog.plugins["aa_broken"].error
        assert "half" not in catalog.registry.names(Kind.WRITER)
        assert catalog.registry.get(Kind.WRITER, "good_writer").plugin == "zz_good"

    def test_a_name_clash_fails_the_later_plugin_only(self, site: Callable[..., None]) -> None:
        site("aa_first", GOOD.format(name="wanted"))
        site("bb_second", GOOD.format(name="wanted"))
        catalog = Catalog()
        catalog.discover({})
        assert catalog.registry.get(Kind.WRITER, "wanted").plugin == "aa_first"
        assert "registered by both aa_first and bb_second" in catalog.plugins["bb_second"].error

    def test_two_distributions_with_the_same_entry_point(self, site: Callable[..., None]) -> None:
        site("twin", GOOD.format(name="one"), module="batchmill_test_twin_a", dist="dist-a")
        site("twin", GOOD.format(name="two"), module="batchmill_test_twin_b", dist="dist-b")
        catalog = Catalog()
        catalog.discover({})
        assert catalog.registry.get(Kind.WRITER, "one").plugin == "twin"
        (failed,) = [info for info in catalog.failures() if "twin" in info.name]
        assert failed.module == "batchmill_test_twin_b"
        assert "already that of batchmill_test_twin_a (dist-a==1.5)" in failed.error


class TestEnvironmentVariables:
    def test_only_the_named_plugins(self, site: Callable[..., None]) -> None:
        site("zz_one", GOOD.format(name="one"))
        site("zz_two", GOOD.format(name="two"))
        catalog = Catalog()
        catalog.discover({"BATCHMILL_PLUGINS": " zz_two , storage"})
        assert {info.name for info in catalog.plugins.values() if info.status == "loaded"} == {"zz_two", "storage"}
        assert catalog.plugins["zz_one"].status == "disabled"
        assert catalog.registry.names(Kind.WRITER) == ["two"]

    def test_all_but_the_named_plugins(self, site: Callable[..., None]) -> None:
        site("zz_one", GOOD.format(name="one"))
        catalog = Catalog()
        catalog.discover({"BATCHMILL_DISABLE_PLUGINS": "zz_one"})
        assert catalog.plugins["zz_one"].status == "disabled"
        assert catalog.plugins["storage"].status == "loaded"

    def test_a_disabled_plugin_is_not_imported(self, site: Callable[..., None]) -> None:
        site("zz_one", GOOD.format(name="one"))
        Catalog().discover({"BATCHMILL_DISABLE_PLUGINS": "zz_one"})
        assert "batchmill_test_zz_one" not in sys.modules

    @pytest.mark.parametrize("variable", ["BATCHMILL_PLUGINS", "BATCHMILL_DISABLE_PLUGINS"])
    def test_an_unknown_name_is_an_error(self, variable: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Catalog().discover({variable: "storge"})
        assert f"{variable} names plugin 'storge'" in str(caught.value)
        assert "Did you mean 'storage'?" in str(caught.value)

    def test_empty_means_none_of_them_and_nothing_left_out(self) -> None:
        none, everything = Catalog(), Catalog()
        none.discover({"BATCHMILL_PLUGINS": ""})
        everything.discover({"BATCHMILL_DISABLE_PLUGINS": ""})
        assert list(none.registry) == []
        assert everything.plugins["storage"].status == "loaded"


class TestRegister:
    def test_late_registration_works_like_discovery(self) -> None:
        catalog = Catalog()
        catalog.register(Shout("a"), "early")
        catalog.register(Shout("b"), "late", "late==2")
        assert [(c.name, c.plugin) for c in catalog.registry] == [("a", "early"), ("b", "late")]
        assert catalog.plugins["late"].version == "late==2"

    def test_is_all_or_nothing(self) -> None:
        catalog = Catalog()
        catalog.register(Shout("taken"), "first")
        with pytest.raises(DuplicateComponentError):
            catalog.register(Shout("new", "taken"), "second")
        assert catalog.registry.names(Kind.WRITER) == ["taken"]
        assert "second" not in catalog.plugins
        catalog.register(Shout("new"), "second")
        assert catalog.registry.get(Kind.WRITER, "new").plugin == "second"

    def test_the_same_plugin_twice_is_refused_and_the_first_stays(self) -> None:
        catalog, plugin = Catalog(), Presets(["batchmill_conf"])
        catalog.register(plugin, "once")
        with pytest.raises(PluginError, match="already, as 'once'"):
            catalog.register(plugin, "twice")
        with pytest.raises(PluginError, match="named 'once' is registered already"):
            catalog.register(Shout("b"), "once")
        assert catalog.config_packages() == ["batchmill_conf"]

    def test_an_unmarked_hook_is_refused(self) -> None:
        class Forgot:
            def register_components(self, registry: ComponentRegistry) -> None: ...

        with pytest.raises(MissingHookimplError, match="forgot has a method 'register_components'"):
            Catalog().register(Forgot(), "forgot")

    def test_a_marker_lost_in_a_subclass_is_noticed(self) -> None:
        class Override(Shout):
            def register_components(self, registry: ComponentRegistry) -> None: ...

        with pytest.raises(MissingHookimplError):
            Catalog().register(Override(), "override")


class Presets:
    """A plugin object with preset packages."""

    def __init__(self, packages: Any) -> None:
        self.packages = packages

    @batchmill.hookimpl
    def config_packages(self) -> Any:
        if isinstance(self.packages, Exception):
            raise self.packages
        return self.packages


class TestConfigPackages:
    def test_are_ordered_by_plugin_name(self) -> None:
        catalog = Catalog()
        catalog.register(Presets(["json"]), "zebra")
        catalog.register(Presets(["email", "xml"]), "ant")
        catalog.register(Shout("x"), "middle")
        assert catalog.config_packages() == ["email", "xml", "json"]

    @pytest.mark.parametrize("package", ["no_such_package", "batchmill.no_such_package", "", "json.decoder.x"])
    def test_one_that_is_not_there_is_an_error(self, package: str) -> None:
        catalog = Catalog()
        catalog.register(Presets([package]), "acme")
        with pytest.raises(PluginError) as caught:
            catalog.config_packages()
        assert "Plugin acme" in str(caught.value)
        assert repr(package) in str(caught.value)
        assert "BATCHMILL_DISABLE_PLUGINS=acme" in str(caught.value)

    def test_a_text_is_no_list(self) -> None:
        catalog = Catalog()
        catalog.register(Presets("json"), "acme")
        with pytest.raises(PluginError, match="expected a list"):
            catalog.config_packages()

    def test_a_hook_that_raises_is_named(self) -> None:
        catalog = Catalog()
        catalog.register(Presets(RuntimeError("no disk")), "acme")
        with pytest.raises(PluginError, match=r"Plugin acme fails .* RuntimeError: no disk"):
            catalog.config_packages()


def test_the_process_has_one_catalog() -> None:
    assert get_catalog() is get_catalog()


def test_discovery_imports_nothing_heavy() -> None:
    script = (
        "import sys; from batchmill.plugin_manager import get_catalog; get_catalog();"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'obstore', 'hydra', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
