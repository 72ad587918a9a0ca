import dataclasses
import functools
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchmill.components import (
    PLAIN_KINDS,
    RUNTIME_ARGUMENTS,
    ComponentRegistry,
    Kind,
    schema_from_signature,
    setting,
)
from batchmill.errors import DuplicateComponentError, PluginError, UnknownComponentError


@dataclass
class EchoSettings:
    """Repeats what it hears.

    More about it.
    """

    times: int = 2


def echo(context: object, times: int = 2) -> None:
    """Say it again."""


class Made:
    pass


@pytest.fixture
def registry() -> ComponentRegistry:
    return ComponentRegistry()


class TestAdd:
    def test_keeps_what_was_registered_and_by_whom(self, registry: ComponentRegistry) -> None:
        with registry.owned_by("acme", "acme-shout==1.2"):
            registry.add(Kind.PROCESSOR, "echo", echo, schema=EchoSettings, aliases=("say",))
        component = registry.get(Kind.PROCESSOR, "echo")
        assert (component.plugin, component.version) == ("acme", "acme-shout==1.2")
        assert component.schema is EchoSettings
        assert component.load() is echo
        assert registry.get(Kind.PROCESSOR, "say") is component

    def test_same_name_in_another_kind_is_another_component(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.WRITER, "none", Made)
        registry.add(Kind.STORAGE, "none", lambda url: url)
        assert registry.get(Kind.WRITER, "none") is not registry.get(Kind.STORAGE, "none")

    @pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "a.b", "_x", "a:b", "é", "x" * 65])
    def test_refuses_names_that_overrides_cannot_spell(self, registry: ComponentRegistry, name: str) -> None:
        with pytest.raises(PluginError, match="starts with a letter"):
            registry.add(Kind.WRITER, name, Made)
        with pytest.raises(PluginError, match="starts with a letter"):
            registry.add(Kind.WRITER, "fine", Made, aliases=(name,))
        assert list(registry) == []

    def test_says_who_took_the_name(self, registry: ComponentRegistry) -> None:
        with registry.owned_by("builtin", "b==1"):
            registry.add(Kind.PROCESSOR, "echo", echo)
        with pytest.raises(DuplicateComponentError) as caught, registry.owned_by("late", "l==1"):
            registry.add(Kind.PROCESSOR, "echo", echo)
        assert "processor 'echo' is registered by both builtin and late" in str(caught.value)
        assert "BATCHMILL_DISABLE_PLUGINS=late" in str(caught.value)
        assert caught.value.plugins == ("builtin", "late")

    def test_an_alias_takes_a_name_too(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.STORAGE, "object_store", lambda url: url, aliases=("s3",))
        with pytest.raises(DuplicateComponentError, match="'s3'"):
            registry.add(Kind.STORAGE, "s3", lambda url: url)
        with pytest.raises(DuplicateComponentError, match="'s3'"):
            registry.add(Kind.STORAGE, "other", lambda url: url, aliases=("s3",))
        assert registry.names(Kind.STORAGE) == ["object_store"]

    def test_a_path_needs_a_schema(self, registry: ComponentRegistry) -> None:
        with pytest.raises(PluginError, match="must give its schema"):
            registry.add(Kind.WRITER, "w", "somewhere:Writer")

    @pytest.mark.parametrize("kind", PLAIN_KINDS)
    def test_plain_kinds_need_none(self, registry: ComponentRegistry, kind: Kind) -> None:
        registry.add(kind, "f", "somewhere:f")
        assert registry.get(kind, "f").schema is None

    def test_refuses_a_schema_that_is_no_dataclass(self, registry: ComponentRegistry) -> None:
        with pytest.raises(PluginError, match="not a dataclass"):
            registry.add(Kind.WRITER, "w", Made, schema=dict)

    def test_refuses_a_setting_called_name(self, registry: ComponentRegistry) -> None:
        @dataclass
        class Named:
            name: str = "x"

        with pytest.raises(PluginError, match="field 'name'"):
            registry.add(Kind.WRITER, "w", Made, schema=Named)
        with pytest.raises(PluginError, match="field 'name'"):
            registry.add(Kind.DATASET, "d", lambda name: name)

    def test_unknown_kind_is_refused(self, registry: ComponentRegistry) -> None:
        with pytest.raises(ValueError, match="gadget"):
            registry.add("gadget", "g", Made)  # type: ignore[arg-type]


class TestSummary:
    def test_first_line_of_the_factory(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.PROCESSOR, "echo", echo)
        assert registry.get(Kind.PROCESSOR, "echo").summary == "Say it again."

    def test_first_line_of_the_schema_for_a_path(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.PROCESSOR, "echo", "m:echo", schema=EchoSettings)
        assert registry.get(Kind.PROCESSOR, "echo").summary == "Repeats what it hears."

    def test_what_was_given_wins(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.PROCESSOR, "echo", echo, summary="Mine.")
        assert registry.get(Kind.PROCESSOR, "echo").summary == "Mine."

    def test_neither_a_base_class_nor_dataclass_speaks_for_it(self, registry: ComponentRegistry) -> None:
        class Base:
            """Something general."""

        class Special(Base):
            pass

        @dataclass
        class Undocumented:
            x: int = 1

        registry.add(Kind.WRITER, "a", Special)
        registry.add(Kind.WRITER, "b", "m:x", schema=Undocumented)
        assert [component.summary for component in registry] == ["", ""]


class TestLookup:
    def test_unknown_name_lists_and_suggests(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.REDUCER, "mean", Made)
        registry.add(Kind.REDUCER, "max", Made)
        with pytest.raises(UnknownComponentError) as caught:
            registry.get(Kind.REDUCER, "meen")
        assert str(caught.value) == "There is no reducer named 'meen'. Did you mean 'mean'? Available: max, mean."
        assert (caught.value.kind, caught.value.name, caught.value.available) == ("reducer", "meen", ["max", "mean"])

    def test_nothing_registered_at_all(self, registry: ComponentRegistry) -> None:
        with pytest.raises(UnknownComponentError, match="Available: none"):
            registry.get(Kind.WRITER, "parquet")

    def test_iterates_once_each_by_kind_and_name(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.WRITER, "b", Made)
        registry.add(Kind.WRITER, "a", Made, aliases=("z",))
        registry.add(Kind.PROCESSOR, "p", echo)
        assert [(component.kind, component.name) for component in registry] == [
            (Kind.PROCESSOR, "p"),
            (Kind.WRITER, "a"),
            (Kind.WRITER, "b"),
        ]


class TestOwnership:
    def test_a_failure_takes_everything_back(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.WRITER, "kept", Made)
        with pytest.raises(RuntimeError), registry.owned_by("half", "h==1"):
            registry.add(Kind.WRITER, "first", Made, aliases=("uno",))
            registry.add(Kind.STORAGE, "second", lambda url: url)
            raise RuntimeError("after two of three")
        assert [component.name for component in registry] == ["kept"]
        with pytest.raises(UnknownComponentError):
            registry.get(Kind.WRITER, "uno")

    def test_the_owner_before_is_back_after_success_and_failure(self, registry: ComponentRegistry) -> None:
        with registry.owned_by("outer", "o==1"):
            with registry.owned_by("inner", "i==1"):
                registry.add(Kind.WRITER, "a", Made)
            with pytest.raises(ValueError), registry.owned_by("bad", "b==1"):
                raise ValueError
            registry.add(Kind.WRITER, "b", Made)
        assert [(component.name, component.plugin) for component in registry] == [("a", "inner"), ("b", "outer")]

    @hypothesis_settings(max_examples=30)
    @given(plan=st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from("abcdef"), min_size=1)), max_size=6))
    def test_exactly_the_plugins_that_succeed_remain(self, plan: list[tuple[bool, set[str]]]) -> None:
        registry, expected = ComponentRegistry(), dict[str, str]()
        for number, (fails, names) in enumerate(plan):
            plugin = f"p{number}"
            clash = any(name in expected for name in names)
            try:
                with registry.owned_by(plugin, "1"):
                    for name in sorted(names):
                        registry.add(Kind.WRITER, name, Made)
                    if fails:
                        raise RuntimeError
            except (RuntimeError, DuplicateComponentError):
                assert fails or clash
            else:
                expected |= dict.fromkeys(names, plugin)
        assert {component.name: component.plugin for component in registry} == expected


class TestLoad:
    def test_imports_when_first_built(self, registry: ComponentRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
        module = types.ModuleType("made_up_module")
        module.Made = dict  # type: ignore[attr-defined]
        registry.add(Kind.WRITER, "w", "made_up_module:Made", schema=EchoSettings)
        monkeypatch.setitem(sys.modules, "made_up_module", module)
        assert registry.get(Kind.WRITER, "w").load() is dict

    def test_a_missing_module_names_component_plugin_and_module(self, registry: ComponentRegistry) -> None:
        with registry.owned_by("acme", "acme==1"):
            registry.add(Kind.STORAGE, "ftp", "no_such_module_at_all:X", schema=EchoSettings)
        with pytest.raises(PluginError) as caught:
            registry.get(Kind.STORAGE, "ftp").load()
        for part in ("storage 'ftp'", "plugin acme", "no_such_module_at_all"):
            assert part in str(caught.value)
        assert isinstance(caught.value.__cause__, ImportError)

    def test_a_missing_attribute_is_the_plugins_fault_too(self, registry: ComponentRegistry) -> None:
        registry.add(Kind.WRITER, "w", "dataclasses:dataclas", schema=EchoSettings)
        with pytest.raises(PluginError, match=r"has no 'dataclas'\. Did you mean 'dataclass'"):
            registry.get(Kind.WRITER, "w").load()


class TestSchemaFromSignature:
    def test_skips_what_the_engine_supplies(self) -> None:
        for kind, runtime in RUNTIME_ARGUMENTS.items():
            source = f"def factory({', '.join(runtime)}, depth: int = 3): ..."
            scope: dict[str, Any] = {}
            exec(source, scope)  # noqa: S102 - signatures made from the table under test
            schema = schema_from_signature(kind, "x", scope["factory"])
            assert [f.name for f in dataclasses.fields(schema)] == ["depth"]
            assert dataclasses.asdict(schema()) == {"depth": 3}

    def test_takes_types_defaults_and_required_fields(self) -> None:
        def factory(path: str, *, columns: list[str] = ["a"], limit: int | None = None) -> None: ...  # noqa: B006

        schema = schema_from_signature(Kind.DATASET, "d", factory)
        by_name = {f.name: f for f in dataclasses.fields(schema)}
        assert by_name["path"].type is str
        assert by_name["columns"].type == list[str]
        assert by_name["path"].default is dataclasses.MISSING
        first, second = schema(path="p"), schema(path="q")
        assert first.columns == ["a"]
        assert first.columns is not second.columns

    def test_a_required_setting_after_an_optional_one(self) -> None:
        def factory(a: int = 1, *, b: int) -> None: ...

        schema = schema_from_signature(Kind.DATASET, "d", factory)
        assert {f.name for f in dataclasses.fields(schema)} == {"a", "b"}
        assert schema(b=2).a == 1

    def test_refuses_a_factory_without_a_signature(self) -> None:
        with pytest.raises(PluginError, match="tells no signature"):
            schema_from_signature(Kind.WRITER, "w", dict)

    def test_a_class_a_class_without_init_and_a_partial(self) -> None:
        class WithInit:
            def __init__(self, size: int = 4) -> None: ...

        class Bare:
            pass

        def two(a: int, b: int = 2) -> None: ...

        assert schema_from_signature(Kind.WRITER, "w", WithInit)().size == 4
        assert dataclasses.fields(schema_from_signature(Kind.WRITER, "w", Bare)) == ()
        partial = schema_from_signature(Kind.WRITER, "w", functools.partial(two, b=5))
        assert partial(a=1).b == 5

    def test_names_known_only_to_type_checkers_are_unchecked(self) -> None:
        def factory(size: "NowhereDefined" = 3) -> None: ...  # type: ignore[name-defined] # noqa: F821

        schema = schema_from_signature(Kind.WRITER, "w", factory)
        assert dataclasses.fields(schema)[0].type is Any

    @pytest.mark.parametrize("source", ["*args", "**kwargs", "a, /"])
    def test_refuses_what_config_cannot_name(self, source: str) -> None:
        scope: dict[str, Any] = {}
        exec(f"def factory({source}): ...", scope)  # noqa: S102 - the three forms side by side
        with pytest.raises(PluginError, match="Register it with schema="):
            schema_from_signature(Kind.WRITER, "w", scope["factory"])


def test_setting_keeps_its_properties_and_its_default() -> None:
    @dataclass
    class Settings:
        builder: str = setting(resolve=Kind.BUILDER, default="")
        workers: int = setting(fingerprint=False, default=0)
        tags: list[str] = setting(default_factory=list)  # noqa: RUF009 - as plugins write it
        plain: int = field(default=1)

    by_name = {f.name: f.metadata for f in dataclasses.fields(Settings)}
    assert by_name["builder"] == {"resolve": Kind.BUILDER, "fingerprint": True, "file": False}
    assert by_name["workers"] == {"resolve": None, "fingerprint": False, "file": False}
    assert Settings() == Settings("", 0, [], 1)
