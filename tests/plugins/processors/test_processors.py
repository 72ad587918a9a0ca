import pytest
import torch
from torch import nn

import batchmill
from batchmill import ConfigError
from batchmill.plugin_manager import Catalog
from batchmill_plugins import processors
from batchmill_plugins.processors._builders import mlp
from batchmill_plugins.processors._function import FunctionProcessor


def double(batch, factor=2):
    assert torch.is_inference_mode_enabled()
    return {"y": batch["x"] * factor}


def test_function(context):
    batch = {"x": torch.arange(3)}
    outputs = FunctionProcessor(context, target=double, args={"factor": 3}).process_batch(batch, 0)
    assert outputs["y"].tolist() == [0, 3, 6]
    assert context.moved == [batch]
    assert FunctionProcessor(context, target=double, args={}).process_batch(batch, 1)["y"].tolist() == [0, 2, 4]


@pytest.mark.parametrize("args", [{"fcator": 3}, {"batch": 1}])
def test_function_arguments_are_checked_before_any_batch(context, args):
    with pytest.raises(ConfigError, match=r"processor\.args does not fit double\(batch, factor=2\).*Given: "):
        FunctionProcessor(context, target=double, args=args)


def test_function_without_a_signature(context):
    # max is written in C; Python knows no signature to check.
    processor = FunctionProcessor(context, target=max, args={"default": 0})
    assert processor.process_batch([3, 5], 0) == 5


@pytest.mark.parametrize(("activation", "kind"), [("relu", nn.ReLU), ("gelu", nn.GELU), ("tanh", nn.Tanh)])
def test_mlp(activation, kind):
    module = mlp([4, 8, 8, 2], activation)
    assert [type(layer) for layer in module] == [nn.Linear, kind, nn.Linear, kind, nn.Linear]
    assert module(torch.zeros(5, 4)).shape == (5, 2)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([4],), r"sizes of builder mlp is \[4\]; expected two or more"),
        (([4, 0],), "integers above 0"),
        (([4, 2.5],), "integers above 0"),
        (([4, True],), "integers above 0"),
        (([4, 2], "rule"), "'rule'; expected gelu, relu, sigmoid, silu, tanh"),
    ],
)
def test_mlp_refusals(args, message):
    with pytest.raises(ConfigError, match=message):
        mlp(*args)


def test_registered_under_their_names(context):
    catalog = Catalog()
    catalog.register(processors, "processors")
    registry = catalog.registry
    assert registry.names(batchmill.Kind.PROCESSOR) == ["function", "torch_module"]
    assert registry.names(batchmill.Kind.BUILDER) == ["mlp"]
    assert registry.get(batchmill.Kind.BUILDER, "mlp").load() is mlp
    for name, setting, kind in (
        ("function", "target", batchmill.Kind.FUNCTION),
        ("torch_module", "builder", batchmill.Kind.BUILDER),
    ):
        component = registry.get(batchmill.Kind.PROCESSOR, name)
        assert component.schema.__dataclass_fields__[setting].metadata["resolve"] is kind
        assert issubclass(component.load(), batchmill.TorchBatchProcessor)
    # The settings of the schema are the keyword arguments of the factory.
    module = registry.get(batchmill.Kind.PROCESSOR, "torch_module")
    settings = {**vars(module.schema()), "builder": mlp, "builder_args": {"sizes": [2, 1]}}
    assert list(module.load()(context, **settings).process_batch(torch.ones(3, 2), 0)) == ["output"]
