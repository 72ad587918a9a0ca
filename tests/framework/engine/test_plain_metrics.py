import json
import math

import numpy as np
import pytest
import torch

from batchmill import ReducerError
from batchmill.engine.plain_metrics import plain_metric


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(2.5), 2.5),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        ({"a": (1, None, "x", True)}, {"a": [1, None, "x", True]}),
        ({1: torch.tensor(3)}, {"1": 3}),
    ],
    ids=str,
)
def test_metrics_become_plain_json(value, expected):
    found = plain_metric("m", value)
    assert found == expected
    assert json.loads(json.dumps(found)) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "Metric 'm' is nan; expected a finite number"),
        ([1.0, -math.inf], "Metric 'm' is -inf"),
        (torch.tensor([math.nan]), "Metric 'm' is nan"),
        pytest.param(object(), "Metric 'm' is a object; expected a JSON value", id="object"),
        ({1, 2}, "Metric 'm' is a set"),
        ({1: "a", "1": "b"}, "Metric 'm' has two keys that are both written '1'"),
        ("\ud800", "Metric 'm' .* not valid Unicode"),
    ],
    ids=repr,
)
def test_metrics_that_are_no_json_are_refused_by_name(value, message):
    with pytest.raises(ReducerError, match=message):
        plain_metric("m", value)
