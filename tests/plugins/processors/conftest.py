from pathlib import Path

import pytest
import torch

from batchmill import Kind, UnknownComponentError
from batchmill_plugins.processors._builders import mlp


class FakeContext:
    """As much of a context as processors may use, on the CPU."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.device = torch.device("cpu")
        self.checkpoint = checkpoint
        self.moved: list[object] = []

    def to_device(self, data):
        self.moved.append(data)
        return data

    def prepare_model_for_inference(self, module):
        module.eval()
        return module.to(self.device)

    def resolve(self, kind, name):
        if (kind, name) == (Kind.BUILDER, "mlp"):
            return mlp
        raise UnknownComponentError(kind.noun, name, ["mlp"])

    def get_hparams(self):
        return {}


@pytest.fixture
def context():
    return FakeContext()


@pytest.fixture
def linked():
    return FakeContext
