import re
from pathlib import Path

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from batchmill import client, settings
from batchmill.errors import ConfigError, ModelError
from batchmill.plugin_manager import Catalog
from batchmill.settings.session import open_session
from batchmill.settings.sweep import label_of, product


def test_the_product_in_the_order_given(catalog: Catalog, base: list[str]) -> None:
    jobs = settings.expand([*base, "model.name=m", "model.version=1,2", "batch_size=32,64"], catalog).jobs
    assert [(job.request.model_version, job.request.batch_size) for job in jobs] == [
        (version, size) for version in (1, 2) for size in (32, 64)
    ]
    assert jobs[1].swept == {"model.version": "1", "batch_size": "64"}
    assert {job.request.model_name for job in jobs} == {"m"}


@pytest.mark.parametrize(
    ("sweep", "values"),
    [
        ("seed=range(1,4,2)", ["1", "3"]),
        ("seed=choice(4,2)", ["4", "2"]),
        ("seed=sort(3,1)", ["1", "3"]),
        ("writer=none,parquet", ["none", "parquet"]),
        ("writer=glob(*)", ["none", "parquet"]),
        ("writer=glob(p*)", ["parquet"]),
        ("reducers=[],[accuracy,confusion_matrix]", ["[]", "[accuracy,confusion_matrix]"]),
        ("output='a, b',c", ["'a, b'", "c"]),
        ("+hparams.x=1,2", ["1", "2"]),
        ("profile=false,true", ["false", "true"]),
    ],
)
def test_every_form_of_sweep(catalog: Catalog, base: list[str], sweep: str, values: list[str]) -> None:
    key = sweep.partition("=")[0]
    with open_session(catalog) as session:
        jobs = product(session.parse([*base, sweep]))
    assert jobs == [([*base, f"{key}={value}"], {key.lstrip("+"): value}) for value in values]


def test_values_arrive_as_they_were_written(catalog: Catalog, base: list[str]) -> None:
    jobs = settings.expand([*base, "output='a, b',c", "reducers=[],[accuracy]"], catalog).jobs
    assert [(job.request.output, list(job.request.reducers)) for job in jobs] == [
        ("a, b", []),
        ("a, b", ["accuracy"]),
        ("c", []),
        ("c", ["accuracy"]),
    ]


def test_without_a_sweep_there_is_one_job(catalog: Catalog, base: list[str]) -> None:
    (job,) = settings.expand(base, catalog).jobs
    assert job.swept == {}
    assert job.request == settings.compose(base, catalog)


def test_run_ids_differ_by_interpolation(catalog: Catalog, base: list[str]) -> None:
    jobs = settings.expand([*base, "seed=1,2", "run_id=seed-${seed}"], catalog).jobs
    assert [job.request.run_id for job in jobs] == ["seed-1", "seed-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["seed=1,2", "run_id=x"], "run_id=x is the same for several jobs .* 'run_id=x-\\${seed}'"),
        (["seed=1,many"], "Job seed=many of the sweep cannot run: seed=many: expected int"),
        (["writer=none,parket"], "Job writer=parket .* Did you mean 'parquet'"),
        (["writer=glob(x*)"], "matches nothing"),
        (["seed=interval(0,1)"], "cannot be counted"),
        (["seed=1,2", "seed=3"], "seed is swept and given a second time"),
        (["seed=1,"], "cannot be read"),
        (["hydra/sweeper=optuna"], "has no effect here"),
        (["batch_sise=1"], "Did you mean 'batch_size'"),
    ],
)
def test_mistakes_show_before_any_job_runs(catalog: Catalog, base: list[str], given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.expand([*base, *given], catalog)


def test_the_same_run_id_in_two_outputs_is_two_runs(catalog: Catalog, base: list[str]) -> None:
    jobs = settings.expand([*base, "output=a,b", "run_id=x"], catalog).jobs
    assert [(job.request.output, job.request.run_id) for job in jobs] == [("a", "x"), ("b", "x")]


# --- names ---

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=90)
SWEPT = st.lists(
    st.sampled_from(["seed", "processor.k", "dataset.k", "reducers@reducers.x", "+hparams.x"]), min_size=1, unique=True
)


@for_all(SWEPT, st.data())
def test_each_job_of_a_sweep_has_a_label_of_its_own_that_fits_a_run_id(keys: list[str], data: st.DataObject) -> None:
    jobs = [dict(zip(keys, data.draw(st.tuples(*[VALUES] * len(keys))), strict=True)) for _ in range(3)]
    labels = [label_of(job) for job in jobs]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (labels[one] == labels[other]) == (jobs[one] == jobs[other])
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,70}", label) for label in labels)


@pytest.mark.parametrize(
    ("swept", "label"),
    [
        ({"model.version": "2"}, "version-2"),
        ({"model.version": "2", "batch_size": "64"}, "version-2_batch_size-64"),
        ({"writer": "none"}, "writer-none"),
        ({}, "job"),
    ],
)
def test_labels_are_for_people(swept: dict[str, str], label: str) -> None:
    assert label_of(swept) == label


def test_keys_that_end_alike_are_kept_apart() -> None:
    assert label_of({"processor.k": "1", "dataset.k": "2"}) != label_of({"dataset.k": "1", "processor.k": "2"})


def test_runs_are_named_after_the_sweep(catalog: Catalog, base: list[str]) -> None:
    sweep = settings.expand([*base, "sweep.name=night", "seed=1,2"], catalog)
    assert sweep.name == "night"
    assert [job.request.run_id for job in sweep.jobs] == ["night-seed-1", "night-seed-2"]
    more = settings.expand([*base, "sweep.name=night", "seed=2,3,1"], catalog)
    assert [job.request.run_id for job in more.jobs] == ["night-seed-2", "night-seed-3", "night-seed-1"]
    given = settings.expand([*base, "sweep.name=night", "seed=1,2", "run_id=mine-${seed}"], catalog)
    assert [job.request.run_id for job in given.jobs] == ["mine-1", "mine-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["sweep.name=a/b", "seed=1,2"], "sweep.name='a/b' cannot name a sweep"),
        (["sweep.name=" + "x" * 51, "seed=1,2"], "cannot name a sweep: expected 1 to 50 letters"),
        (["sweep.name=a,b"], "A sweep has one sweep.name, but 2 are given"),
        (["sweep.nam=a", "seed=1,2"], "Did you mean 'name'|sweep.nam"),
    ],
)
def test_names_that_do_not_fit(catalog: Catalog, base: list[str], given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.expand([*base, *given], catalog)


def test_what_is_about_a_sweep_is_refused_for_one_run(catalog: Catalog, base: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"add -m \(--multirun\)"):
        settings.compose([*base, "sweep.name=night"], catalog)
    with pytest.raises(ConfigError, match="one job for each version: add -m"):
        settings.compose([*base, "model.name=m", "model.version=all"], catalog)


# --- all versions ---

# The least that composes with the plugins that are installed; nothing of it is run.
REAL = ["+processor.name=mine:Mine", "allow_import=true", "dataset=jsonl", "dataset.path=data.jsonl"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A model with versions 1 to 3 in the tracker of an output; returns the overrides that name both."""
    output = str(tmp_path / "out put")
    with client.use(client.connect(output)):
        model = client.create_model("digits")
        for number in (1, 2, 3):
            (tmp_path / f"weights-{number}").write_text(str(number))
            model.register_version(tmp_path / f"weights-{number}")
    client.disconnect()
    return ["tracker=sqlite", f"output='{output}'", "model.name=digits"]


def test_all_versions_are_swept(model: list[str]) -> None:
    sweep = settings.expand([*REAL, *model, "sweep.name=s", "model.version=all", "seed=1,2"])
    assert [(job.swept["model.version"], job.swept["seed"]) for job in sweep.jobs] == [
        (version, seed) for version in "123" for seed in "12"
    ]
    assert [job.request.model_version for job in sweep.jobs] == [1, 1, 2, 2, 3, 3]
    assert sweep.jobs[0].request.run_id == "s-version-1_seed-1"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["model.name=null", "model.version=all"], "says all versions of no model"),
        (["model.name=digits,letters", "model.version=all"], "needs one model .* but model.name is swept"),
        (["output=a,b", "model.name=digits", "model.version=all"], "but output is swept"),
        (["model.name=digits", "model.version=all,1"], "'all' is every version already; give it alone"),
        (["model.name=digits", "model.version=all", "model.version=1"], "swept and given a second time"),
    ],
)
def test_all_versions_of_what(model: list[str], given: list[str], message: str) -> None:
    keys = {line.partition("=")[0] for line in given}
    with pytest.raises(ConfigError, match=message):
        settings.expand([*REAL, *(line for line in model if line.partition("=")[0] not in keys), *given])


def test_all_versions_of_an_unknown_model(model: list[str]) -> None:
    with pytest.raises(ModelError, match="Did you mean 'digits'"):
        settings.expand([*REAL, *model[:2], "model.name=digit", "model.version=all"])
