import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from batchmill import settings
from batchmill.contracts.run import RunRequest, Selection
from batchmill.errors import ConfigError
from batchmill.plugin_manager import Catalog
from batchmill.settings.hydra_state import BatchmillSearchPath

TIMES = {
    "path": "data",
    "times": 2,
    "rate": 0.5,
    "mode": "FAST",
    "how": "whole",
    "limit": None,
    "columns": [],
    "extra": {},
    "inner": {"depth": 1},
    "builder": "",
}


class TestCompose:
    def test_defaults(self, catalog: Catalog, base: list[str]) -> None:
        assert settings.compose(base, catalog) == RunRequest(
            processor=Selection("times", TIMES),
            dataset=Selection("numbers"),
            launcher=Selection("local", {"nproc": 1}),
            callbacks={"progress": Selection("progress")},
            batch_size=32,
            loader={"num_workers": 0},
        )

    def test_values_of_every_type(self, catalog: Catalog, base: list[str]) -> None:
        given = [
            "processor.times=3",
            "processor.rate=1",
            "processor.mode=EXACT",
            "processor.how=part",
            "processor.limit=7",
            "processor.columns=[a,b]",
            "processor.extra.some.where=1",
            "processor.inner.depth=4",
            "processor.builder=linear",
            "processor.path='with space, comma=x'",
        ]
        processor = settings.compose([*base, *given], catalog).processor
        assert processor.settings == {
            "path": "with space, comma=x",
            "times": 3,
            "rate": 1.0,
            "mode": "EXACT",
            "how": "part",
            "limit": 7,
            "columns": ["a", "b"],
            "extra": {"some": {"where": 1}},
            "inner": {"depth": 4},
            "builder": "linear",
        }

    def test_top_level(self, catalog: Catalog, base: list[str]) -> None:
        given = ["output=s3://b/runs", "run_id=nightly.1", "batch_size=8", "checkpoint_interval=3", "limit=100"]
        given += ["max_batches=5", "seed=9", "device=cuda:1", "threads=null", "profile=true", "join=true"]
        given += ["hparams.lr=0.5", "hparams.tags=[a]", "loader.pin_memory=true", "loader.num_workers=2"]
        given += ["model.name=digits", "model.version=3"]
        request = settings.compose([*base, *given], catalog)
        assert (request.output, request.run_id, request.batch_size) == ("s3://b/runs", "nightly.1", 8)
        assert (request.checkpoint_interval, request.limit, request.max_batches) == (3, 100, 5)
        assert (request.seed, request.device, request.threads) == (9, "cuda:1", None)
        assert (request.profile, request.join, request.allow_import) == (True, True, False)
        assert request.hparams == {"lr": 0.5, "tags": ["a"]}
        assert request.loader == {"num_workers": 2, "pin_memory": True}
        assert (request.model_name, request.model_version) == ("digits", 3)

    def test_a_version_may_be_a_label(self, catalog: Catalog, base: list[str]) -> None:
        request = settings.compose([*base, "model.name=m", "model.version=latest"], catalog)
        assert request.model_version == "latest"

    def test_reducers_by_name_and_a_second_one_under_its_own(self, catalog: Catalog, base: list[str]) -> None:
        given = ["reducers=[confusion_matrix,accuracy]", "+reducers@reducers.top5=accuracy", "reducers.top5.target=t"]
        reducers = settings.compose([*base, *given, "reducers.accuracy.prediction=p"], catalog).reducers
        assert list(reducers) == ["confusion_matrix", "accuracy", "top5"]
        assert reducers["accuracy"] == Selection("accuracy", {"prediction": "p", "target": "label"})
        assert reducers["top5"] == Selection("accuracy", {"prediction": "prediction", "target": "t"})

    @pytest.mark.parametrize("added", ["+reducers.top5=accuracy", "+reducers.top5={name: accuracy, target: label}"])
    def test_a_reducer_given_in_place(self, catalog: Catalog, base: list[str], added: str) -> None:
        assert settings.compose([*base, added], catalog).reducers == {
            "top5": Selection("accuracy", {"prediction": "prediction", "target": "label"})
        }

    def test_callbacks_can_be_changed_and_switched_off(self, catalog: Catalog, base: list[str]) -> None:
        both = settings.compose([*base, "callbacks=[logging,progress]"], catalog)
        assert list(both.callbacks) == ["logging", "progress"]
        assert settings.compose([*base, "callbacks=[]"], catalog).callbacks == {}

    def test_interpolation_within_the_config_and_to_the_environment(
        self, catalog: Catalog, base: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOME_FOLDER", "${not.a.reference}")
        given = ["output=${oc.env:SOME_FOLDER}", "run_id=b${batch_size}", "hparams.x=${processor.times}"]
        request = settings.compose([*base, *given], catalog)
        assert (request.output, request.run_id, request.hparams) == ("${not.a.reference}", "b32", {"x": 2})

    def test_a_class_of_ones_own_where_imports_are_allowed(self, catalog: Catalog) -> None:
        given = ["+processor.name=my_module:MyProcessor", "+processor.times=3", "allow_import=true", "dataset=numbers"]
        request = settings.compose(given, catalog)
        assert request.processor == Selection("my_module:MyProcessor", {"times": 3})
        assert request.allow_import

    def test_what_was_made_in_python_need_not_be_selected(self, catalog: Catalog) -> None:
        mine = Selection("", instance=object())
        request = settings.compose(["dataset=numbers"], catalog, given={"processor": mine})
        assert request.processor is mine

    def test_the_result_survives_json(self, catalog: Catalog, base: list[str]) -> None:
        request = settings.compose([*base, "reducers=[accuracy]", "hparams={a: {2: x}}"], catalog)
        assert request.hparams == {"a": {"2": "x"}}
        assert RunRequest.from_json(request.to_json()) == request


class TestPrintedConfig:
    def test_has_the_shape_of_the_root_config(self, catalog: Catalog, base: list[str]) -> None:
        config = settings.compose_config([*base, "reducers=[accuracy]", "model.name=m"], catalog)
        assert config["processor"] == {"name": "times", **TIMES}
        assert config["reducers"] == {"accuracy": {"name": "accuracy", "prediction": "prediction", "target": "label"}}
        assert config["model"] == {"name": "m", "version": None}
        assert config["batch_size"] == 32

    def test_yaml_reads_back(self, catalog: Catalog, base: list[str]) -> None:
        config = settings.compose_config([*base, "output='a: b'", "hparams.text='on'"], catalog)
        assert yaml.safe_load(settings.to_yaml(config)) == config

    def test_can_be_given_back(self, catalog: Catalog, base: list[str]) -> None:
        given = [*base, "reducers=[accuracy]", "+reducers@reducers.top5=accuracy", "callbacks=[logging]", "limit=3"]
        config = settings.compose_config(given, catalog)
        assert settings.as_config(settings.from_mapping(config, catalog)) == config


class TestFromMapping:
    def test_names_lists_and_mappings(self, catalog: Catalog) -> None:
        request = settings.from_mapping(
            {
                "processor": {"name": "times", "path": "p", "mode": "EXACT"},
                "dataset": "numbers",
                "reducers": ["accuracy"],
                "callbacks": {"quiet": "logging"},
                "launcher": {"nproc": 3},
                "loader": {"pin_memory": True},
                "batch_size": 4,
            },
            catalog,
        )
        assert request.processor == Selection("times", {**TIMES, "path": "p", "mode": "EXACT"})
        assert list(request.reducers) == ["accuracy"]
        assert request.callbacks == {"quiet": Selection("logging")}
        assert request.launcher == Selection("local", {"nproc": 3})
        assert request.loader == {"num_workers": 0, "pin_memory": True}
        assert (request.batch_size, request.output) == (4, "runs")

    def test_text_is_taken_as_it_is(self, catalog: Catalog) -> None:
        mapping = {"processor": {"name": "times", "path": "\\${x}"}, "dataset": "numbers", "hparams": {"t": "${y}"}}
        with pytest.raises(ConfigError, match=r"^$|hparams") as caught:
            settings.from_mapping({**mapping, "hparams": {"t": "${eval:1}"}}, catalog)
        assert "'eval'" in str(caught.value)
        request = settings.from_mapping(mapping, catalog)
        assert request.processor.settings["path"] == "\\${x}"
        assert request.hparams == {"t": "${y}"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch_sise": 3}, "Did you mean 'batch_size'"),
            ({"batch_size": "many"}, "batch_size=many: expected int"),
            ({"processor": {"name": "times", "tims": 3}}, "Did you mean 'times'"),
            ({"processor": "timse"}, "There is no processor named 'timse'"),
            ({"reducers": {"name": "accuracy"}}, "reducers has no names for its entries"),
            ({"reducers": {"a": 5}}, "reducers.a=5: expected the name of a reducer"),
            ({"launcher": {"nprocs": 2}}, "Did you mean 'nproc'"),
            ({"hparams": {"a": {"_target_": "os.system"}}}, r"hparams.a._target_ is refused"),
            ({"loader": 3}, "loader=3: expected mapping"),
        ],
    )
    def test_mistakes(self, catalog: Catalog, change: dict[str, Any], message: str) -> None:
        right = {"processor": {"name": "times", "path": "p"}, "dataset": "numbers"}
        with pytest.raises(ConfigError, match=message):
            settings.from_mapping({**right, **change}, catalog)


class TestSideEffects:
    def test_a_hydra_application_may_compose_with_batchmill(
        self, catalog: Catalog, base: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "app.yaml").write_text("x: 1\n")
        ConfigStore.instance().store("theirs", {"y": 2}, group="processor")
        try:
            with initialize_config_dir(str(tmp_path), version_base="1.2"):
                mine = GlobalHydra.instance().hydra
                assert settings.compose(base, catalog).processor.name == "times"
                with pytest.raises(ConfigError):
                    settings.compose(["processor=theirs"], catalog)
                assert GlobalHydra.instance().hydra is mine
                assert hydra_compose("app", ["+processor=theirs"]) == {"x": 1, "processor": {"y": 2}}
                with pytest.raises(Exception, match="Could not find 'processor/times'"):
                    hydra_compose("app", ["+processor=times"])
        finally:
            del ConfigStore.instance().repo["processor"]["theirs.yaml"]
        assert BatchmillSearchPath.entries == []

    def test_no_file_and_no_folder_is_made(
        self, catalog: Catalog, base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        settings.compose(base, catalog)
        settings.expand([*base, "seed=1,2"], catalog)
        assert os.listdir(tmp_path) == []

    def test_two_catalogs_do_not_see_each_other(self, catalog: Catalog, base: list[str]) -> None:
        empty = Catalog()
        settings.compose(base, catalog)
        with pytest.raises(ConfigError, match="Available: none"):
            settings.compose([], empty)

    def test_nothing_heavy_is_imported(self) -> None:
        script = (
            "import sys; import batchmill.settings as s; before = 'hydra' in sys.modules; s.compose;"
            "print(before, [m for m in ('torch', 'numpy', 'pyarrow', 'obstore', 'rich') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False []"
