import pytest

from batchmill import settings
from batchmill.errors import ConfigError
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
