import dataclasses
import sys
from typing import Any

import pytest

from batchmill import ComponentRegistry, ConfigError, Kind, PluginError, RunRequest, Selection, setting
from batchmill.engine.assembly import Assembler, open_storage
from batchmill.errors import UnknownComponentError
from batchmill.plugin_manager import get_catalog
from batchmill_plugins.storage._memory import MemoryStorage


@dataclasses.dataclass
class NetSettings:
    width: int
    builder: str = setting(resolve=Kind.BUILDER, default="")
    tags: list[str] = dataclasses.field(default_factory=list)


class Net:
    def __init__(self, context: Any, width: int, builder: Any = None, tags: Any = None) -> None:
        self.given = (context, width, builder, tags)


def build_tower():
    return "a tower"


@pytest.fixture
def registry():
    registry = ComponentRegistry()
    registry.add(Kind.PROCESSOR, "net", Net, schema=NetSettings)
    registry.add(Kind.PROCESSOR, "far", "no_such_module:Thing", schema=NetSettings)
    registry.add(Kind.BUILDER, "tower", build_tower)
    registry.add(Kind.WRITER, "plain", lambda: "a writer")
    registry.add(Kind.WRITER, "constant", "math:pi", schema=dataclasses.make_dataclass("Settings", []))
    registry.add(Kind.CALLBACK, "beep", lambda loud=True: loud)
    return registry


@pytest.fixture
def assembler(registry):
    return Assembler(registry)


def test_unset_settings_take_their_defaults(assembler):
    found = assembler.complete_one(Kind.PROCESSOR, "processor", Selection("net", {"width": 3}))
    assert found == Selection("net", {"width": 3, "builder": "", "tags": []})
    again = assembler.complete_one(Kind.PROCESSOR, "processor", Selection("net", {"width": 3}))
    assert again.settings["tags"] is not found.settings["tags"]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection("net"), r"processor 'net' needs a value for processor\.width"),
        (Selection("net", {"widht": 3}), r"no setting 'widht'\. Did you mean 'width'\? It has: width, builder, tags"),
        (Selection("nett", {}), r"There is no processor named 'nett'\. Did you mean 'net'\? Available: far, net"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(assembler, selection, message):
    with pytest.raises(ConfigError, match=message):
        assembler.complete_one(Kind.PROCESSOR, "processor", selection)


def test_a_whole_request_is_completed_by_key():
    assembler = Assembler(get_catalog().registry)
    request = RunRequest(
        processor=Selection("", instance=Net),
        dataset=Selection("", instance=[1]),
        callbacks={"log": Selection("logging")},
        reducers={"n": Selection("count", {"column": "y"})},
    )
    done = assembler.complete(request)
    assert done.writer.settings["compression"] == "none"
    assert done.processor == request.processor
    assert done.callbacks["log"].settings and "n" in done.reducers
    with pytest.raises(UnknownComponentError, match="no callback named 'logs'"):
        assembler.complete(dataclasses.replace(request, callbacks={"log": Selection("logs")}))


def test_a_component_is_built_with_its_runtime_arguments_and_settings(assembler):
    selection = assembler.complete_one(Kind.PROCESSOR, "processor", Selection("net", {"width": 3, "builder": "tower"}))
    assert assembler.build(Kind.PROCESSOR, selection, "the context").given == ("the context", 3, build_tower, [])


def test_an_unknown_name_inside_a_setting_is_refused(assembler):
    selection = Selection("net", {"width": 3, "builder": "towr", "tags": []})
    with pytest.raises(UnknownComponentError, match=r"no builder named 'towr'\. Did you mean 'tower'"):
        assembler.build(Kind.PROCESSOR, selection, "the context")


def test_live_objects_are_used_as_they_are_and_live_classes_are_called(assembler):
    instance = object()
    assert assembler.build(Kind.WRITER, Selection("", instance=instance)) is instance
    assert assembler.build(Kind.PROCESSOR, Selection("", instance=Net), "c", 4).given == ("c", 4, None, None)


def test_settings_that_do_not_fit_the_factory_are_told_without_a_traceback(assembler):
    with pytest.raises(ConfigError, match=r"writer 'plain' does not take these settings: got an unexpected keyword"):
        assembler.build(Kind.WRITER, Selection("plain", {"loud": 1}))


def test_what_cannot_be_called_is_told(assembler):
    with pytest.raises(ConfigError, match="writer 'constant' is a float and cannot be called"):
        assembler.build(Kind.WRITER, Selection("constant"))


def test_a_missing_module_names_the_plugin(assembler):
    selection = assembler.complete_one(Kind.PROCESSOR, "processor", Selection("far", {"width": 1}))
    with pytest.raises(PluginError, match=r"processor 'far' of plugin .* cannot be imported: No module named"):
        assembler.build(Kind.PROCESSOR, selection, "c")


def test_config_imports_code_only_where_it_is_allowed(registry, tmp_path, monkeypatch):
    code = "class Mine:\n    def __init__(self, context, size=1):\n        self.size = size\n"
    (tmp_path / "local_job.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    selection = Selection("local_job:Mine", {"size": 5})
    with pytest.raises(ConfigError, match=r"names code to import, which config may only do with allow_import=true"):
        Assembler(registry).build(Kind.PROCESSOR, selection, "c")
    allowed = Assembler(registry, allow_import=True)
    try:
        assert allowed.build(Kind.PROCESSOR, selection, "c").size == 5
        assert allowed.resolve(Kind.BUILDER, "local_job:Mine").__name__ == "Mine"
        for name, message in (
            ("local_job:Mime", r"has no 'Mime'\. Did you mean 'Mine'"),
            ("no_such_job:Mine", r"module 'no_such_job' cannot be imported"),
        ):
            with pytest.raises(ConfigError, match=message):
                allowed.build(Kind.PROCESSOR, Selection(name), "c")
        with pytest.raises(ConfigError, match="does not take these settings"):
            allowed.build(Kind.PROCESSOR, Selection("local_job:Mine", {"sice": 5}), "c")
    finally:
        sys.modules.pop("local_job", None)


def test_a_storage_is_chosen_by_the_scheme(tmp_path):
    assembler = Assembler(get_catalog().registry)
    assert isinstance(open_storage(assembler, "memory://x/y"), MemoryStorage)
    assert open_storage(assembler, str(tmp_path)).url == str(tmp_path)
    assert open_storage(assembler, f"file://{tmp_path}").url == str(tmp_path)
    chosen = assembler.complete_one(Kind.STORAGE, "storage", Selection("memory"))
    assert open_storage(assembler, "memory://x", chosen).url == "memory://x"


def test_a_storage_that_does_not_serve_the_url_is_refused(tmp_path):
    assembler = Assembler(get_catalog().registry)
    with pytest.raises(ConfigError, match=r"Storage 'local' does not serve 'memory://x'; storage 'memory' does"):
        open_storage(assembler, "memory://x", Selection("local"))
    with pytest.raises(UnknownComponentError, match="no storage named 'ftp'"):
        open_storage(assembler, "ftp://host/x")


def test_what_is_no_storage_is_refused():
    assembler = Assembler(get_catalog().registry)
    with pytest.raises(PluginError, match=r"is a list; expected a batchmill\.Storage"):
        open_storage(assembler, "anywhere", Selection("", instance=[1]))
