import json
import math
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchmill import CorruptRunError
from batchmill.engine.serialization import canonical_json, decode_value, encode_value, seal, sha256_hex, unseal

json_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), json_keys
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_keys, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(json_keys.filter(lambda key: key != "sha256"), json_values, max_size=5)

arrays = hnp.arrays(
    st.sampled_from(["?", "i1", "u2", "<i4", ">i4", "i8", "f2", "<f4", ">f8", "c8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
).filter(lambda array: not (array.dtype.kind in "fc" and np.isnan(array).any()))
hashables = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), json_keys, st.binary(max_size=4)
)
leaves = st.one_of(
    hashables,
    arrays,
    arrays.map(
        lambda array: (
            torch.tensor(array.astype(array.dtype.newbyteorder("=")))
            if array.dtype.kind != "u"
            else torch.arange(3, dtype=torch.uint8)
        )
    ),
)
partials = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(hashables, st.tuples(hashables, hashables)), inner, max_size=3),
        st.dictionaries(st.sampled_from(["$", "a", "sum"]), inner, max_size=3),
    ),
    max_leaves=10,
)


def same(one, other) -> bool:
    """Equal in value and in type, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, (np.ndarray, np.generic)):
        equal_kind = one.dtype.newbyteorder("=") == other.dtype.newbyteorder("=")
        return equal_kind and one.shape == other.shape and np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        ordered = [(key, one[key]) for key in one]
        return one.keys() == other.keys() and all(
            same(value, other[key]) and any(same(key, k) for k in other) for key, value in ordered
        )
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other


@given(partials)
def test_a_partial_comes_back_equal_and_of_the_same_types(value):
    stored = json.loads(canonical_json(encode_value(value)))
    assert same(decode_value(stored), value)


def test_integers_of_any_size_come_back():
    for value in (2**63 - 1, 2**64, -(2**63), -(7**9000)):  # Python writes no decimals this long
        assert decode_value(json.loads(canonical_json(encode_value(value)))) == value


@given(partials)
def test_equal_partials_have_equal_bytes(value):
    again = decode_value(json.loads(canonical_json(encode_value(value))))
    assert canonical_json(encode_value(again)) == canonical_json(encode_value(value))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        torch.tensor(3.0, dtype=torch.float16),
        torch.ones(2, 3, requires_grad=True),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([1 + 2j, 3 - 4j]).conj(),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.tensor(2**63 - 1),
        torch.tensor([1.0, float("-inf")]),
        torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn),
    ],
    ids=str,
)
def test_tensors_of_every_make_come_back(tensor):
    found = decode_value(json.loads(canonical_json(encode_value(tensor))))
    assert found.dtype == tensor.dtype and found.shape == tensor.shape
    assert found.tolist() == tensor.tolist()
    assert not found.requires_grad


def test_a_decoded_array_may_be_written_to():
    for value in (np.arange(3), torch.arange(3)):
        found = decode_value(encode_value(value))
        found += 1
        assert found.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, {"x": math.nan}],
        np.array([1.0, math.nan]),
        np.float32("nan"),
        np.array([complex(0, math.nan)]),
        torch.tensor([math.nan]),
        torch.tensor([complex(0, math.nan)]),
        torch.tensor([1.0, math.nan]).to(torch.float8_e4m3fn),
    ],
    ids=repr,
)
def test_nan_is_refused_wherever_it_hides(value):
    with pytest.raises(ValueError, match="NaN"):
        encode_value(value)


class Point(NamedTuple):
    x: int


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (object(), "builtins.object"),
        ({1, 2}, "builtins.set"),
        (Point(1), "Point"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([object()]), "dtype object"),
        (np.ma.masked_array([1, 2], mask=[True, False]), "MaskedArray"),
        (torch.eye(2).to_sparse(), "sparse"),
        (lambda: None, "function"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_stored_is_refused_by_its_type(value, named):
    with pytest.raises(TypeError, match=named):
        encode_value({"deep": [value]})


def test_text_that_no_file_can_hold_is_refused():
    with pytest.raises(ValueError, match="not valid Unicode"):
        encode_value(["name-\udcff.png"])


def test_a_value_that_contains_itself_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(ValueError, match="nested"):
        encode_value(value)


def test_subclasses_of_text_and_mappings_become_plain():
    stored = encode_value(OrderedDict(a=Text("x")))
    assert same(decode_value(json.loads(canonical_json(stored))), {"a": "x"})


def test_a_form_of_another_version_is_refused_by_name():
    with pytest.raises(CorruptRunError, match="unknown form 'set'"):
        decode_value({"$": "set", "items": []})


@given(documents)
def test_a_sealed_document_comes_back_with_its_digest(document):
    found = unseal(seal(document), "x.json")
    assert found.pop("sha256") == sha256_hex(canonical_json(document))
    assert found == document


@settings(max_examples=15)
@given(documents.filter(bool))
def test_no_single_flipped_bit_changes_a_sealed_document_unnoticed(document):
    data = seal(document)
    intact = unseal(data, "x.json")
    unnoticed = 0
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            try:
                found = unseal(bytes(damaged), "x.json")
            except CorruptRunError as error:
                assert "x.json is damaged" in str(error)
            else:
                assert found == intact, "another spelling of the same values does no harm"
                unnoticed += 1
    assert unnoticed < len(data) * 8 / 4


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'"sha256"', b'{"a":1}', b'{"sha256":1}', b"\xff\xfe{}"])
def test_what_was_never_sealed_is_damaged(data):
    with pytest.raises(CorruptRunError, match=r"x\.json is damaged"):
        unseal(data, "x.json")


@given(documents, st.data())
def test_a_truncated_document_is_damaged(document, data):
    sealed = seal(document)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(CorruptRunError):
        unseal(sealed[:cut], "x.json")


@given(json_values)
def test_canonical_json_has_one_form_for_equal_values(value):
    data = canonical_json(value)
    assert canonical_json(json.loads(data)) == data


def test_canonical_json_refuses_nan():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": math.nan})
