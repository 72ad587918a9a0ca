import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from batchmill import ConfigError, ModelError
from batchmill_plugins.processors._builders import mlp
from batchmill_plugins.processors._model_files import save_model as save_model_directory
from batchmill_plugins.processors._torch_module import TorchModuleProcessor

SIZES = [4, 8, 3]
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def module():
    torch.manual_seed(1)
    return mlp(SIZES, "tanh").eval()


@pytest.fixture
def weights(tmp_path, module):
    path = tmp_path / "weights.safetensors"
    save_model(module, str(path))
    return str(path)


def returning(result):
    """A builder of a module that returns ``result(*inputs)``."""

    class Returning(nn.Module):
        def forward(self, *inputs):
            return result(*inputs)

    return Returning


def run(context, batch=X, **settings):
    return TorchModuleProcessor(context, **settings).process_batch(batch, 0)


BUILT = {"builder": mlp, "builder_args": {"sizes": SIZES, "activation": "tanh"}}


def test_builder_and_weights(context, module, weights):
    outputs = run(context, **BUILT, weights=weights)
    assert list(outputs) == ["output"]
    assert torch.equal(outputs["output"], module(X))
    assert outputs["output"].is_inference()


def test_without_weights_the_builder_gives_them(context):
    torch.manual_seed(7)
    outputs = run(context, **BUILT)
    torch.manual_seed(7)
    assert torch.equal(outputs["output"], mlp(**BUILT["builder_args"])(X))


def test_runs_in_evaluation_mode(context):
    outputs = run(context, torch.ones(100, 4), builder=lambda: nn.Dropout(0.5))
    assert torch.equal(outputs["output"], torch.ones(100, 4))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": (8, 4)}, r"lacks 0\.bias, 2\.bias, 2\.weight, and has nothing that the module lacks"),
        (
            {"0.weight": (8, 4), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,), "4.bias": (1,)},
            r"lacks nothing, and has 4\.bias that the module lacks",
        ),
        ({"0.weight": (9, 4), "0.bias": (8,), "2.weight": (3, 8), "2.bias": (3,)}, r"size mismatch for 0\.weight"),
        ({f"x{i}": (1,) for i in range(9)}, "and has x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_weights_must_fit_exactly(context, tmp_path, state, message):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in state.items()}, path)
    with pytest.raises(ModelError, match=message) as caught:
        run(context, **BUILT, weights=str(path))
    assert "other.safetensors do not fit the Sequential" in str(caught.value)


def test_tied_weights_are_loaded(context, tmp_path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    tied = Tied()
    save_model(tied, str(tmp_path / "tied.safetensors"))
    outputs = run(context, builder=Tied, weights=str(tmp_path / "tied.safetensors"))
    assert torch.equal(outputs["output"], tied(X))


def test_pickled_weights_are_never_read(context, tmp_path):
    torch.save(mlp(SIZES).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"end in '\.pt'; expected \.safetensors"):
        run(context, **BUILT, weights=str(tmp_path / "weights.pt"))
    (tmp_path / "weights.pt").rename(tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        run(context, **BUILT, weights=str(tmp_path / "weights.safetensors"))


def export(module, path):
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(module, (X,), dynamic_shapes=({0: batch},)), path)


def test_exported_program(context, module, tmp_path):
    export(module, tmp_path / "model.pt2")
    outputs = run(context, X[:3], program=str(tmp_path / "model.pt2"))
    torch.testing.assert_close(outputs["output"], module(X[:3]))


@pytest.mark.parametrize("suffix", ["pt", "ts"])
def test_torchscript_program(context, tmp_path, suffix):
    module = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(tmp_path / f"model.{suffix}"))
    outputs = run(context, program=str(tmp_path / f"model.{suffix}"))
    assert torch.equal(outputs["output"], module.eval()(X))


@pytest.mark.parametrize("suffix", ["pt2", "pt", "ts"])
def test_what_is_no_program_is_refused(context, tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(b"no program")
    with pytest.raises(ModelError, match=rf"model\.{suffix} cannot be loaded as a program"):
        run(context, program=str(path))


def test_linked_model_version(linked, module, tmp_path):
    save_model_directory(tmp_path / "version", module, "mlp", BUILT["builder_args"])
    assert sorted(f.name for f in (tmp_path / "version").iterdir()) == ["model.json", "model.safetensors"]
    outputs = run(linked(tmp_path / "version"))
    assert torch.equal(outputs["output"], module(X))
    # A builder of one's own with the linked version's weights.
    outputs = run(linked(tmp_path / "version"), **BUILT)
    assert torch.equal(outputs["output"], module(X))
    outputs = run(linked(tmp_path / "version" / "model.safetensors"), **BUILT)
    assert torch.equal(outputs["output"], module(X))


def test_linked_program(linked, module, tmp_path):
    export(module, tmp_path / "model.pt2")
    expected = module(X)
    torch.testing.assert_close(run(linked(tmp_path))["output"], expected)
    torch.testing.assert_close(run(linked(tmp_path / "model.pt2"))["output"], expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"model\.json is no JSON"),
        ('{"builder": "mlp"}', 'expected {"builder": name, "args": {...}}'),
        ('{"builder": "mlp", "args": {}, "_target_": "os.system"}', "expected"),
        ('{"builder": "mpl", "args": {}}', "There is no builder named 'mpl'. Did you mean 'mlp'"),
        ('{"builder": "os:system", "args": {"command": "true"}}', "may only name a registered builder"),
        ('{"builder": "mlp", "args": {"size": [1]}}', r"args in .*model\.json does not fit mlp\(sizes"),
        ('{"builder": "mlp", "args": {"sizes": [4, 8, 3]}}', r"There is no file .*model\.safetensors"),
    ],
)
def test_broken_model_directories(linked, tmp_path, content, message):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises((ModelError, ConfigError), match=message):
        run(linked(tmp_path))


def test_model_directory_without_a_model(linked, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"holds no model .* found notes\.txt"):
        run(linked(tmp_path))
    with pytest.raises(ModelError, match="found nothing"):
        run(linked(tmp_path / "gone"))
    with pytest.raises(ModelError, match=r"There is no file .*model\.safetensors"):
        run(linked(tmp_path), **BUILT)


def test_saving_refuses_arguments_that_json_cannot_hold(tmp_path, module):
    with pytest.raises(ModelError, match="arguments of builder 'mlp' cannot be saved as JSON"):
        save_model_directory(tmp_path / "v", module, "mlp", {"sizes": torch.Size})
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"has no model: set processor\.builder .* processor\.program, or link .*model\.name"),
        ({"builder": ""}, "has no model"),
        ({**BUILT, "program": "x.pt2"}, "leave builder, builder_args and weights empty"),
        ({"weights": "x.safetensors"}, r"need a processor\.builder"),
        ({"builder_args": {"sizes": SIZES}}, r"need a processor\.builder"),
        ({"builder": mlp, "builder_args": {"size": SIZES}}, r"processor\.builder_args does not fit mlp\(sizes"),
        ({"builder": dict}, "returned a dict; expected a torch.nn.Module"),
        ({**BUILT, "precision": "bf16"}, "'bf16'; expected float32, bf16-autocast, fp16-autocast"),
        ({**BUILT, "input_dtype": "float23"}, "'float23'; expected a torch dtype"),
        ({**BUILT, "argmax": "output"}, "name of another output column"),
        ({**BUILT, "argmax": "label", "keep": ["label"]}, "name of another output column"),
    ],
)
def test_contradictory_settings(context, settings, message):
    with pytest.raises(ConfigError, match=message):
        TorchModuleProcessor(context, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "gone.safetensors"}, r"no file .*gone\.safetensors"),
        ({"program": "gone.pt2"}, r"no file .*gone\.pt2"),
    ],
)
def test_missing_files(context, settings, message):
    with pytest.raises(ModelError, match=message):
        TorchModuleProcessor(context, **({**BUILT, **settings} if "weights" in settings else settings))


def test_programs_of_other_kinds_are_refused(context, tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=r"ends in '\.onnx'; expected \.pt2 \(torch\.export\) or \.pt or \.ts"):
        run(context, program=str(tmp_path / "model.onnx"))


BATCH = {"name": ["a"] * 5, "x": X, "y": X + 1, "label": torch.arange(5), "raw": np.arange(5)}


@pytest.mark.parametrize(
    ("batch", "inputs", "expected"),
    [
        (BATCH, [], X),
        (BATCH, ["y"], X + 1),
        ([X, torch.arange(5)], [], X),
        ((X,), [], X),
        (X, [], X),
    ],
)
def test_inputs(context, batch, inputs, expected):
    outputs = run(context, batch, builder=nn.Identity, inputs=inputs)
    assert torch.equal(outputs["output"], expected)


def test_several_inputs_go_by_position_and_only_they_are_moved(context):
    outputs = run(context, BATCH, builder=returning(lambda y, x: y - x), inputs=["y", "x"])
    assert torch.equal(outputs["output"], X + 1 - X)
    (moved,) = context.moved
    assert [id(value) for value in moved] == [id(BATCH["y"]), id(BATCH["x"])]


def test_outputs_of_every_form(context):
    tensor = run(context, builder=nn.Identity, output="embedding")
    assert list(tensor) == ["embedding"]
    pair = run(context, builder=returning(lambda x: (x, x + 1)), output="o")
    assert list(pair) == ["o_0", "o_1"]
    assert torch.equal(pair["o_1"], X + 1)
    mapping = run(context, builder=returning(lambda x: {"logits": x, "extra": x * 2}))
    assert list(mapping) == ["logits", "extra"]


@pytest.mark.parametrize(
    ("result", "output"),
    [(lambda x: x, "scores"), (lambda x: (x, x + 1), "scores"), (lambda x: {"scores": x, "other": 1}, "scores")],
)
def test_argmax(context, result, output):
    outputs = run(context, builder=returning(result), output=output, argmax="prediction")
    assert outputs["prediction"].dtype is torch.int64
    assert torch.equal(outputs["prediction"], X.argmax(-1))
    assert list(outputs)[-1] == "prediction"


@pytest.mark.parametrize(
    "result", [lambda x: {"logits": x}, lambda x: x[:, 0], lambda x: {"output": [1]}, lambda x: {"output": x, "p": x}]
)
def test_argmax_without_scores(context, result):
    with pytest.raises(ConfigError, match=r"processor\.argmax=p needs a column 'output' .* but the module returned"):
        run(context, builder=returning(result), argmax="p")


def test_keep(context):
    outputs = run(context, BATCH, builder=nn.Identity, keep=["label", "name"])
    assert list(outputs) == ["output", "label", "name"]
    assert outputs["label"] is BATCH["label"]
    assert outputs["name"] is BATCH["name"]


@pytest.mark.parametrize(
    ("batch", "settings", "message"),
    [
        (BATCH, {"inputs": ["z"]}, r"processor\.inputs names 'z', .* Available: 'name' \(list\), 'x' \(Tensor\)"),
        (BATCH, {"keep": ["z"]}, r"processor\.keep names 'z', which the batch has not"),
        (BATCH, {"keep": ["x"], "output": "x"}, r"processor\.keep names 'x', but the module's output has a column"),
        ({"name": ["a"]}, {}, r"no tensor to give to the module, only 'name' \(list\)"),
        (X, {"inputs": ["x"]}, r"processor\.inputs=\['x'\] names columns, but the dataset's batches are a Tensor"),
        ([X], {"keep": ["x"]}, r"processor\.keep=\['x'\] names columns, but the dataset's batches are a list"),
        (X, {"builder": returning(lambda x: 3)}, "returned a int; expected a tensor, a mapping"),
    ],
)
def test_batches_that_do_not_fit(context, batch, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(context, batch, **{"builder": nn.Identity, **settings})


def test_input_dtype(context):
    images = torch.arange(5, dtype=torch.uint8)
    outputs = run(context, images, builder=nn.Identity, input_dtype="float16")
    assert outputs["output"].dtype is torch.float16
    assert run(context, images, builder=nn.Identity)["output"].dtype is torch.uint8


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bf16-autocast", torch.bfloat16), ("fp16-autocast", torch.float16)],
)
def test_precision(context, precision, dtype):
    assert run(context, **BUILT, precision=precision)["output"].dtype is dtype
