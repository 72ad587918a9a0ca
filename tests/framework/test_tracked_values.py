import enum
import json
import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchmill.errors import ModelError
from batchmill.tracked_values import check_json, check_labels, check_name, check_report

json_values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), json_values, min_size=1, max_size=5))
def test_json_values_pass_unchanged(metrics):
    plain = check_report("inference", 3, metrics)
    assert plain == metrics
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain is not metrics


class Level(enum.IntEnum):
    HIGH = 3


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(3), 3),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (torch.tensor(True), True),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(False), False),
        (np.array(2.5), 2.5),
        (np.str_("x"), "x"),
        (Level.HIGH, 3),
        (Text("t"), "t"),
        ((1, (2, 3)), [1, [2, 3]]),
        (OrderedDict(a=(torch.tensor(1),)), {"a": [1]}),
        ([np.float64(1.0), {"k": torch.tensor(2)}], [1.0, {"k": 2}]),
    ],
    ids=repr,
)
def test_scalars_of_libraries_become_plain_python(value, expected):
    plain = check_report("g", 0, {"m": value})["m"]
    assert plain == expected

    def kinds(item):
        inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        return {type(item)}.union(*(kinds(each) for each in inner))

    assert kinds(plain) <= {bool, int, float, str, list, dict}
    assert type(plain) is type(expected)


circular: list = []
circular.append(circular)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"'loss' of group 'g' is None.*Leave it out"),
        (math.nan, r"'loss' of group 'g' is nan.*finite"),
        (math.inf, r"'loss' of group 'g' is inf"),
        (-math.inf, r"'loss' of group 'g' is -inf"),
        (np.float32("nan"), r"'loss' of group 'g' is nan"),
        (torch.tensor(float("inf")), r"'loss' of group 'g' is inf"),
        ([1.0, math.nan], r"'loss' of group 'g', at \[1\] is nan"),
        ({"a": {"b": [0, None]}}, r"'loss' of group 'g', at 'a', at 'b', at \[1\] is None"),
        (torch.zeros(1), r"'loss' of group 'g' is a torch\.Tensor.*\.item\(\)"),
        (np.zeros(3), r"'loss' of group 'g' is a numpy\.ndarray.*\.tolist\(\)"),
        (b"bytes", r"'loss' of group 'g' is a builtins\.bytes"),
        ({1, 2}, r"'loss' of group 'g' is a builtins\.set"),
        (1 + 2j, r"'loss' of group 'g' is a builtins\.complex"),
        (np.complex64(1), r"'loss' of group 'g' is a builtins\.complex"),
        (object(), r"'loss' of group 'g' is a builtins\.object"),
        ({1: "a"}, r"'loss' of group 'g' has the key 1"),
        ("\ud800", r"'loss' of group 'g' is .*not valid Unicode"),
        ({"\ud800": 1}, r"key of Metric 'loss' of group 'g' .*not valid Unicode"),
        (circular, r"'loss' of group 'g'.*nested more than"),
    ],
    ids=lambda value: repr(value).partition(" at 0x")[0][:40].encode("ascii", "replace").decode(),
)
def test_other_values_are_errors_that_name_the_metric(value, message):
    with pytest.raises(ModelError, match=message):
        check_report("g", 0, {"fine": 1, "loss": value})


@pytest.mark.parametrize("group", ["", "a.b", ".", "a/b", "a\\b", "a\nb", "\0", "x" * 101, None, 3, "\ud800"])
def test_groups_that_cannot_be_are_refused(group):
    with pytest.raises(ModelError, match=r"[Gg]roup"):
        check_report(group, 0, {"m": 1})


@pytest.mark.parametrize("group", ["inference", "my group", "ü", "a-b_c:d", "x" * 100])
def test_groups_that_can_be(group):
    assert check_report(group, 0, {"m": 1}) == {"m": 1}


@pytest.mark.parametrize("steps", [-1, True, 1.0, "1", None, np.int64(1), torch.tensor(1), 2**63])
def test_steps_are_plain_non_negative_ints(steps):
    with pytest.raises(ModelError, match="steps_completed of group 'g'"):
        check_report("g", steps, {"m": 1})


@pytest.mark.parametrize("metrics", [{}, None, [("m", 1)], 3.0])
def test_metrics_are_a_dict_that_is_not_empty(metrics):
    with pytest.raises(ModelError, match=r"group 'g'.*at least one metric"):
        check_report("g", 0, metrics)


@pytest.mark.parametrize("name", ["", 3, None, "\ud800"])
def test_metric_names_are_strings(name):
    with pytest.raises(ModelError, match=r"metric"):
        check_report("g", 0, {name: 1})


def test_metadata_may_hold_none_but_not_nan():
    assert check_json({"a": None, "b": (1, None)}, "Metadata") == {"a": None, "b": [1, None]}
    with pytest.raises(ModelError, match="Metadata, at 'a' is nan"):
        check_json({"a": math.nan}, "Metadata")
    with pytest.raises(ModelError, match="expected a dict"):
        check_json([1], "Metadata")


@pytest.mark.parametrize("name", ["digits", "a.b-c_D9", "0", ".hidden", "x" * 128])
def test_model_names_that_can_be(name):
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "a\n", "x" * 129, None, 3])
def test_model_names_that_cannot_be(name):
    with pytest.raises(ModelError, match="model's name"):
        check_name(name)


def test_labels_keep_their_order_once():
    assert check_labels(["prod", "v1.2", "prod", "a-b"]) == ("prod", "v1.2", "a-b")
    assert check_labels([]) == ()


@pytest.mark.parametrize("label", ["latest", "all", "1", "2,3", "a b", "", "-a", 3, None, "a\n"])
def test_labels_that_could_be_mistaken_are_refused(label):
    with pytest.raises(ModelError, match="cannot be a label"):
        check_labels(["fine", label])


def test_a_string_is_not_a_list_of_labels():
    with pytest.raises(ModelError, match=r"expected a list.*\['prod'\]"):
        check_labels("prod")
