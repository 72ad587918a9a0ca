from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchmill import settings
from batchmill.components import Kind
from batchmill.contracts.run import Selection
from batchmill.errors import ConfigError, PluginError, UnknownComponentError
from batchmill.plugin_manager import Catalog
from batchmill.settings.field_types import type_name


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Nested:
    size: int = 1


def catalog_with(schema: type[Any]) -> Catalog:
    catalog = Catalog()
    catalog.registry.add(Kind.WRITER, "w", "nowhere:W", schema=schema)
    return catalog


class TestCheck:
    def test_fills_in_the_defaults(self, catalog: Catalog) -> None:
        assert settings.check(Kind.REDUCER, "accuracy", {"target": "t"}, catalog) == Selection(
            "accuracy", {"prediction": "prediction", "target": "t"}
        )

    def test_an_alias_becomes_the_name(self, catalog: Catalog) -> None:
        assert settings.check(Kind.STORAGE, "s3", None, catalog).name == "object_store"

    def test_uses_the_process_catalog_by_default(self) -> None:
        assert settings.check("storage", "local").name == "local"

    def test_text_stays_as_it_is(self, catalog: Catalog) -> None:
        checked = settings.check(Kind.REDUCER, "accuracy", {"target": "${oc.env:HOME}"}, catalog)
        assert checked.settings["target"] == "${oc.env:HOME}"

    @pytest.mark.parametrize(
        ("given_settings", "message"),
        [
            ({"targt": "x"}, "reducer 'accuracy' has no setting 'targt'. Did you mean 'target'?"),
            ({"name": "x"}, "reducer 'accuracy' has no setting 'name'. It has: prediction, target."),
            ({"target": None}, "reducers.a.target=null: expected str, got nothing."),
            ({"target": ["x"]}, "reducers.a.target=['x']: expected str, got ['x'] (list)."),
            ({"target": {"_target_": "os.system"}}, "reducers.a.target._target_ is refused"),
        ],
    )
    def test_mistakes_are_told_where_they_are(
        self, catalog: Catalog, given_settings: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            settings.check(Kind.REDUCER, "accuracy", given_settings, catalog, where="reducers.a")
        assert message in str(caught.value)

    def test_unknown_name_and_missing_value(self, catalog: Catalog) -> None:
        with pytest.raises(UnknownComponentError, match="Did you mean 'times'"):
            settings.check(Kind.PROCESSOR, "time", {}, catalog)
        with pytest.raises(ConfigError, match=r"processor 'times' needs path. Write processor.path=VALUE"):
            settings.check(Kind.PROCESSOR, "times", {}, catalog)

    def test_an_import_needs_leave(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError, match="allow_import=true"):
            settings.check(Kind.PROCESSOR, "mine:Mine", {"a": 1}, catalog)
        allowed = settings.check(Kind.PROCESSOR, "mine:Mine", {"a": (1, 2)}, catalog, allow_import=True)
        assert allowed == Selection("mine:Mine", {"a": [1, 2]})

    def test_a_live_object_is_no_setting(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError, match=r"processor\.extra"):
            settings.check(Kind.PROCESSOR, "times", {"path": "p", "extra": {"x": object()}}, catalog)


TYPES: list[tuple[Any, Any, str]] = [
    (int, 3, "int"),
    (float, 0.5, "float"),
    (str, "a", "str"),
    (bool, True, "bool"),
    (int | None, None, "int or null"),
    (int | str, "a", "int or str"),
    (list[str], ["a"], "list of str"),
    (list[int] | None, None, "list of int or null"),
    (dict[str, Any], {"a": [1]}, "mapping"),
    (dict[str, int], {"a": 1}, "mapping"),
    (Any, {"a": 1}, "anything"),
    (object, 5, "anything"),
    (Literal["a", "b"], "b", "one of a, b"),
    (Literal["a", "b"] | None, None, "one of a, b or null"),
    (Literal[1, "auto"], 1, "one of 1, auto"),
]


@pytest.mark.parametrize(("hint", "default", "words"), TYPES, ids=[words for *_, words in TYPES])
def test_types_that_a_schema_may_have(hint: Any, default: Any, words: str) -> None:
    schema = make_dataclass("Made", [("it", hint, field(default_factory=lambda: default))])
    assert type_name(hint) == words
    assert settings.check(Kind.WRITER, "w", {}, catalog_with(schema)).settings == {"it": default}


def test_abstract_collections_become_the_plain_ones() -> None:
    from collections.abc import Mapping, Sequence

    @dataclass
    class Abstract:
        names: Sequence[str] = ()
        sizes: Mapping[str, int] = field(default_factory=dict)
        both: Sequence[str] | None = None

    catalog = catalog_with(Abstract)
    checked = settings.check(Kind.WRITER, "w", {"names": ("a",), "sizes": {"b": 1}, "both": ["c"]}, catalog)
    assert checked.settings == {"names": ["a"], "sizes": {"b": 1}, "both": ["c"]}
    with pytest.raises(ConfigError, match=r"writer.names=3: expected list of str"):
        settings.check(Kind.WRITER, "w", {"names": 3}, catalog)


def test_enums_and_nested_dataclasses_become_plain_values() -> None:
    @dataclass
    class Rich:
        colour: Colour = Colour.RED
        nested: Nested = field(default_factory=Nested)
        many: list[Nested] = field(default_factory=lambda: [Nested(2)])

    catalog = catalog_with(Rich)
    assert settings.check(Kind.WRITER, "w", {}, catalog).settings == {
        "colour": "RED",
        "nested": {"size": 1},
        "many": [{"size": 2}],
    }
    assert settings.check(Kind.WRITER, "w", {"colour": Colour.BLUE}, catalog).settings["colour"] == "BLUE"
    with pytest.raises(ConfigError, match=r"writer.nested has no key 'sise'. Did you mean 'size'"):
        settings.check(Kind.WRITER, "w", {"nested": {"sise": 3}}, catalog)


@pytest.mark.parametrize(
    ("hint", "default"), [(set[int], {1}), (int, None), (int, "x"), (int | list[int], 1), (complex, 1j)]
)
def test_types_that_a_schema_may_not_have(hint: Any, default: Any) -> None:
    schema = make_dataclass("Made", [("it", hint, field(default_factory=lambda: default))])
    with pytest.raises(PluginError, match="The schema of writer 'w' of plugin python cannot be used in config"):
        settings.check(Kind.WRITER, "w", {}, catalog_with(schema))


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**53), 2**53),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: TEXT.filter(lambda text: text != "???"),
    list[str]: st.lists(TEXT.filter(lambda text: text != "???"), max_size=3),
    dict[str, int]: st.dictionaries(
        TEXT.filter(lambda text: text.strip() != "_target_"), st.integers(0, 9), max_size=3
    ),
    int | None: st.none() | st.integers(0, 9),
}
FIELDS = st.sampled_from(list(VALUES)).flatmap(lambda hint: st.tuples(st.just(hint), VALUES[hint]))


@hypothesis_settings(max_examples=40)
@given(st.lists(FIELDS, max_size=5))
@example([(str, "\\\\${a}\\"), (str, "${oc.env:HOME}")])
def test_any_default_and_any_given_value_come_back_unchanged(fields: list[tuple[Any, Any]]) -> None:
    names = [f"f{number}" for number in range(len(fields))]
    values = {name: value for name, (_, value) in zip(names, fields, strict=True)}
    given_values = catalog_with(make_dataclass("Given", [(n, h) for n, (h, _) in zip(names, fields, strict=True)]))
    assert settings.check(Kind.WRITER, "w", values, given_values).settings == values
    if not any("${" in str(value) for value in values.values()):  # in a default, OmegaConf's own syntax holds
        specs = [(n, h, field(default_factory=lambda value=v: value)) for n, (h, v) in zip(names, fields, strict=True)]
        defaults = catalog_with(make_dataclass("Defaults", specs))
        assert settings.check(Kind.WRITER, "w", {}, defaults).settings == values


@hypothesis_settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FIELDS, max_size=4))
def test_any_registered_schema_composes_with_its_defaults(catalog: Catalog, fields: list[tuple[Any, Any]]) -> None:
    plain = [(hint, value) for hint, value in fields if "${" not in str(value)]
    specs = [
        (f"f{number}", hint, field(default_factory=lambda value=value: value))
        for number, (hint, value) in enumerate(plain)
    ]
    own = Catalog()
    for component in catalog.registry:
        own.registry.add(component.kind, component.name, component.factory, schema=component.schema)
    own.registry.add(Kind.PROCESSOR, "made", "nowhere:Made", schema=make_dataclass("Made", specs))
    own.registry.add(Kind.REDUCER, "made", "nowhere:Made", schema=make_dataclass("Made", specs))
    request = settings.compose(["processor=made", "dataset=numbers", "reducers=[made]"], own)
    expected = {f"f{number}": value for number, (_, value) in enumerate(plain)}
    assert request.processor == Selection("made", expected)
    assert request.reducers == {"made": Selection("made", expected)}
