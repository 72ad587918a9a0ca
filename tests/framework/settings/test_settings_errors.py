from dataclasses import dataclass, field
from typing import Any

import pytest

import batchmill
from batchmill import settings
from batchmill.components import ComponentRegistry, Kind
from batchmill.errors import EXIT_USAGE, ConfigError, PluginError, UnknownComponentError
from batchmill.plugin_manager import Catalog, PluginInfo
from batchmill.settings.bind import checked_root

UNKNOWN = "There is no processor named 'tims'. Did you mean 'times'? Available: idle, times."

# Overrides beside those of ``base`` and what the message must say.
MISTAKES: list[tuple[list[str], list[str]]] = [
    # names
    (["processor=tims"], [UNKNOWN]),
    (["reducers=[accurcy]"], ["There is no reducer named 'accurcy'", "Did you mean 'accuracy'"]),
    (["writer=parket"], ["There is no writer named 'parket'", "Did you mean 'parquet'", "Available: none, parquet"]),
    (["storage=s3"], ["'s3' is another name of 'object_store': write storage=object_store"]),
    (["processor.builder=linar"], ["There is no builder named 'linar'", "Did you mean 'linear'"]),
    (["processor.builder=os:system"], ["processor.builder=os:system names code to import", "allow_import=true"]),
    # keys
    (["procesor=times"], ["The configuration has no key 'procesor'", "Did you mean 'processor'"]),
    (["procesor.times=2"], ["The configuration has no key 'procesor'", "Did you mean 'processor'"]),
    (["processor.tims=2"], ["processor 'times' has no setting 'tims'", "Did you mean 'times'", "how, inner, limit"]),
    (["+processor.tims=2"], ["processor 'times' has no setting 'tims'", "Did you mean 'times'"]),
    (["processor.inner.dept=2"], ["processor.inner has no key 'dept'", "Did you mean 'depth'"]),
    (["batch_sise=2"], ["The configuration has no key 'batch_sise'", "Did you mean 'batch_size'"]),
    (["+batch_sise=2"], ["The configuration has no key 'batch_sise'", "Did you mean 'batch_size'"]),
    (["model.nme=2"], ["model has no key 'nme'", "Did you mean 'name'"]),
    (["++model.nme=2"], ["model has no key 'nme'", "Did you mean 'name'"]),
    (["reducers.top5.target=x"], ["No reducer is called 'top5' in this run", "+reducers@reducers.top5=NAME"]),
    (["reducers=[accuracy]", "reducers.acuracy.target=x"], ["Did you mean 'accuracy'", "Selected: accuracy"]),
    (["reducers=[accuracy]", "reducers.accuracy.targt=x"], ["reducer 'accuracy' has no setting 'targt'", "'target'"]),
    (["+processor@other=times"], ["The configuration has no key 'other'"]),
    # types
    (["processor.times=abc"], ["processor.times=abc: expected int, got 'abc' (str)"]),
    (["processor.times=1.5"], ["processor.times=1.5: expected int, got 1.5 (float)"]),
    (["processor.times=null"], ["processor.times=null: expected int, got nothing"]),
    (["processor.rate=fast"], ["processor.rate=fast: expected float, got 'fast' (str)"]),
    (["processor.mode=SLOW"], ["processor.mode=SLOW: expected one of FAST, EXACT"]),
    (["processor.how=hole"], ["processor.how=hole: expected one of whole, part"]),
    (["processor.columns=3"], ["processor.columns=3: expected list of str, got 3 (int)"]),
    (["processor.extra=3"], ["processor.extra=3: expected mapping, got 3 (int)"]),
    (["processor.limit=x"], ["processor.limit=x: expected int or null, got 'x' (str)"]),
    (["batch_size=abc"], ["batch_size=abc: expected int, got 'abc' (str)"]),
    (["profile=maybe"], ["profile=maybe: expected bool, got 'maybe' (str)"]),
    (["model.version=[1,2]"], ["model.version=[1, 2]: expected int or str or null, got [1, 2] (list)"]),
    (["hparams=3"], ["hparams=3: expected mapping"]),
    (["batch_size=${output}"], ["batch_size: ", "'runs'", "Integer"]),
    (["output=${nope}"], ["output: ", "'nope' not found"]),
    (["output=${oc.env:SURELY_NOT_SET_ANYWHERE}"], ["output: ", "'SURELY_NOT_SET_ANYWHERE' not found"]),
    ([""], ["Override '' cannot be read"]),
    (["batch_size=0"], ["batch_size=0 is out of range", "at least 1"]),
    (["hparams={1: x}"], ["hparams.1: Key 1 (int) is incompatible with (str)"]),
    # selection
    (["processor=[times,idle]"], ["expected the name of one processor", "processor.KEY=VALUE"]),
    (["processor={name: times}"], ["expected the name of one processor"]),
    (["processor=null"], ["expected the name of one processor"]),
    (["reducers=null"], ["'reducers=[]' for none"]),
    (["reducers=[accuracy,accuracy]"], ["selects 'accuracy' twice", "+reducers@reducers.ANOTHER=accuracy"]),
    (["+processor=times"], ["a run has one processor; write processor=times without '+'"]),
    (["~tracker"], ["No tracker selected: write tracker=NAME. Available: sqlite"]),
    (["+reducers.mine=5"], ["reducers.mine=5: expected the name of a reducer", "Available: accuracy"]),
    (["+reducers.mine={target: x}"], ["reducers.mine has no 'name'"]),
    # grammar
    (["a=[1"], ["Override 'a=[1' cannot be read", "key=value"]),
    (["batch_size"], ["Override 'batch_size' cannot be read", "missing EQUAL"]),
    (["=3"], ["Config group override must be a string or a list"]),
    (["batch_size=8,16"], ["batch_size=8,16 gives several values", "-m"]),
    (["batch_size=range(1,3)"], ["gives several values", "-m"]),
    # nothing that runs code, nothing without effect
    (["+processor._target_=os.system"], ["processor._target_ is refused"]),
    (["hparams={a: [{_target_: os.system}]}"], ["hparams.a[0]._target_ is refused"]),
    (["output=${eval:1}"], ["output uses the resolver 'eval'", "${oc.env:HOME}"]),
    (["output=${hydra:runtime.cwd}"], ["output uses the resolver 'hydra'"]),
    (["hparams.x=[a,{b: '${now:%Y}'}]"], ["uses the resolver 'now'"]),
    (["hydra.run.dir=x"], ["hydra.run.dir=x has no effect here"]),
    (["hydra/launcher=joblib"], ["has no effect here"]),
    (["+hydra.callbacks.x._target_=os.system"], ["has no effect here"]),
]


@pytest.mark.parametrize(("given", "said"), MISTAKES, ids=[" ".join(given)[:60] for given, _ in MISTAKES])
def test_a_mistake_is_one_paragraph_that_says_what_to_do(
    catalog: Catalog, base: list[str], given: list[str], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.compose([*base, *given], catalog)
    message = str(caught.value)
    for part in said:
        assert part in message
    assert "\n" not in message
    assert "  " not in message
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"checkpoint_interval": 0}, "checkpoint_interval=0 is out of range: expected a whole number of at least 1."),
        ({"limit": -1}, "limit=-1 is out of range"),
        ({"max_batches": 0}, "max_batches=0 is out of range"),
        ({"threads": 0}, "threads=0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range: expected 0 to 4294967295."),
        ({"seed": 2**32}, "seed=4294967296 is out of range"),
        ({"loader": {"num_workers": -1}}, "loader.num_workers=-1 is out of range"),
        ({"loader": {"num_workers": "two"}}, "loader.num_workers='two' is out of range"),
        ({"loader": {"num_workers": True}}, "loader.num_workers=True is out of range"),
        ({"output": " "}, "output is empty: expected a directory or URL."),
        ({"device": ""}, "device is empty: expected a device."),
        ({"model": {"version": 3}}, "model.version=3 says a version of no model: give model.name=NAME too."),
        ({"run_id": ".."}, "run_id='..' cannot name a run"),
        ({"run_id": ""}, "run_id='' cannot name a run"),
        ({"run_id": "a/b"}, "run_id='a/b' cannot name a run"),
        ({"run_id": "a b"}, "run_id='a b' cannot name a run"),
        ({"run_id": "x" * 129}, "expected 1 to 128 letters, digits, '.', '_' and '-', and not dots alone."),
    ],
)
def test_values_out_of_range(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked_root(values)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"run_id": "x" * 128},
        {"run_id": "..a"},
        {"run_id": "A-z_0.9"},
        {"seed": 2**32 - 1},
        {"limit": 1, "max_batches": 1, "checkpoint_interval": 1, "threads": None},
        {"model": {"name": "m", "version": "latest"}},
    ],
)
def test_values_just_in_range(values: dict[str, Any]) -> None:
    root = checked_root(values)
    assert {key: root[key] for key in values} == values


class TestNothingSelected:
    def test_no_processor(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError, match=r"No processor selected: write processor=NAME. Available: idle, times."):
            settings.compose(["dataset=numbers"], catalog)

    def test_no_dataset(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError, match=r"No dataset selected: write dataset=NAME. Available: numbers."):
            settings.compose(["processor=idle"], catalog)

    def test_settings_of_none(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError, match=r"No processor is selected, so processor.times cannot be set"):
            settings.compose(["processor.times=3", "dataset=numbers"], catalog)

    def test_a_class_without_the_leave_to_import(self, catalog: Catalog) -> None:
        given = ["+processor.name=my_module:Mine", "dataset=numbers"]
        with pytest.raises(ConfigError, match=r"processor.name=my_module:Mine names code .* add allow_import=true"):
            settings.compose(given, catalog)
        with pytest.raises(ConfigError, match=r"with \+processor.name=module:Class allow_import=true"):
            settings.compose(["processor.name=my_module:Mine", "dataset=numbers"], catalog)

    @pytest.mark.parametrize("name", ["my_module:", ":Mine", "a b:c", "a:b:c", "../x:y"])
    def test_a_class_that_cannot_be_one(self, catalog: Catalog, name: str) -> None:
        given = [f"+processor.name='{name}'", "dataset=numbers", "allow_import=true"]
        with pytest.raises(ConfigError, match="expected module:attribute"):
            settings.compose(given, catalog)


class TestMissing:
    def test_says_what_to_write(self, catalog: Catalog) -> None:
        with pytest.raises(ConfigError) as caught:
            settings.compose(["processor=times", "dataset=numbers"], catalog)
        assert str(caught.value) == "A value is missing: processor 'times' needs path. Write processor.path=VALUE."

    def test_names_all_of_them_at_once(self, catalog: Catalog) -> None:
        @dataclass
        class Needy:
            low: int
            high: int
            deep: dict[str, int] = field(default_factory=dict)

        class Plugin:
            @batchmill.hookimpl
            def register_components(self, registry: ComponentRegistry) -> None:
                registry.add(Kind.DATASET, "needy", "x:y", schema=Needy)
                registry.add(Kind.REDUCER, "needy", "x:y", schema=Needy)

        own = Catalog()
        own.register(Plugin(), "own")
        for component in catalog.registry:
            own.registry.add(component.kind, component.name, component.factory, schema=component.schema)
        given = ["processor=times", "dataset=needy", "dataset.high=3", "+reducers.r=needy"]
        with pytest.raises(ConfigError) as caught:
            settings.compose(given, own)
        assert str(caught.value) == (
            "A value is missing: processor 'times' needs path; dataset 'needy' needs low; reducer 'needy' needs high "
            "and low. Write processor.path=VALUE dataset.low=VALUE reducers.r.high=VALUE reducers.r.low=VALUE."
        )


class TestPluginsThatAreNotThere:
    def test_a_failed_or_disabled_plugin_is_suspected(self, catalog: Catalog, base: list[str]) -> None:
        own = Catalog()
        for component in catalog.registry:
            own.registry.add(component.kind, component.name, component.factory, schema=component.schema)
        own.plugins["acme"] = PluginInfo("acme", "acme.plugin", "acme==1", "failed", "ImportError: no\nmodule foo")
        own.plugins["other"] = PluginInfo("other", "other", "other==1", "disabled")
        with pytest.raises(UnknownComponentError) as caught:
            settings.compose([*base, "processor=shout"], own)
        assert "It may belong to a plugin that is not loaded" in str(caught.value)
        assert "acme (ImportError: no module foo); other (disabled)" in str(caught.value)

    def test_a_bad_schema_matters_only_when_chosen(self, catalog: Catalog, base: list[str]) -> None:
        @dataclass
        class Bad:
            numbers: set[int] = field(default_factory=set)

        own = Catalog()
        for component in catalog.registry:
            own.registry.add(component.kind, component.name, component.factory, schema=component.schema)
        with own.registry.owned_by("acme", "acme==1"):
            own.registry.add(Kind.PROCESSOR, "bad", "x:y", schema=Bad)
        assert settings.compose(base, own).processor.name == "times"
        with pytest.raises(PluginError) as caught:
            settings.compose(["processor=bad", "dataset=numbers"], own)
        assert "The schema of processor 'bad' of plugin acme cannot be used in config" in str(caught.value)
        assert "\n" not in str(caught.value)
