"""Builders of modules that need no code of one's own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from batchmill import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def mlp(sizes: Sequence[int], activation: str = "relu") -> nn.Sequential:
    """Return linear layers with an activation between every two of them.

    Args:
        sizes: Numbers of features: of the input, of each hidden layer, of the output.
        activation: gelu, relu, sigmoid, silu or tanh.

    Returns:
        A module from ``(rows, sizes[0])`` to ``(rows, sizes[-1])``, float32, randomly initialised.

    Raises:
        ConfigError: There are fewer than two sizes, one is below 1, or there is no such activation.
    """
    if len(sizes) < 2 or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ConfigError(f"sizes of builder mlp is {list(sizes)}; expected two or more integers above 0.")
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"activation of builder mlp is {activation!r}; expected {', '.join(_ACTIVATIONS)}.")
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
