import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchmill import ConfigError, DatasetError
from batchmill_plugins.datasets import _line_index
from batchmill_plugins.datasets._jsonl import JsonlDataset
from batchmill_plugins.datasets._line_index import LineIndex

ROWS = [
    {"id": i, "score": i + 0.5, "ok": i % 2 == 0, "text": f"zeile {i} ü", "tags": ["a"] * i, "more": {"k": None}}
    for i in range(7)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "a.jsonl", ROWS[:3])
    (tmp_path / "b.jsonl").write_text("\n\n")
    # Blank lines, Windows line ends, no newline at the end of the file.
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS[3:]]
    (tmp_path / "c.jsonl").write_bytes(f"\n{lines[0]}\r\n\r\n{lines[1]}\n\n{lines[2]}\n{lines[3]}".encode())
    return tmp_path


def test_rows_across_files(folder, check_dataset):
    check_dataset(JsonlDataset(str(folder)), ROWS)
    subset = [{"text": row["text"], "id": row["id"]} for row in ROWS]
    check_dataset(JsonlDataset(f"{folder}/*.jsonl", ["text", "id"]), subset)


def test_first_row_decides_what_is_a_tensor(folder):
    batch = JsonlDataset(str(folder)).read_batch(1, 5)
    kinds = {name: v.dtype if isinstance(v, torch.Tensor) else type(v) for name, v in batch.items()}
    assert kinds == {
        "id": torch.int64,
        "score": torch.float64,
        "ok": torch.bool,
        "text": list,
        "tags": list,
        "more": list,
    }


def test_integers_among_floats_stay_floats(tmp_path):
    write(tmp_path / "x.jsonl", [{"x": 0.5}, {"x": 1}, {"x": 2}])
    assert JsonlDataset(str(tmp_path)).read_batch(1, 3)["x"].dtype is torch.float64


def test_integer_too_large_for_a_float_column(tmp_path):
    write(tmp_path / "x.jsonl", [{"x": 0.5}, {"x": 10**400}])
    with pytest.raises(DatasetError, match=r"line 2 .* holds 1000+\.\.\., beyond float64"):
        JsonlDataset(str(tmp_path)).read_batch(0, 2)


def test_declared_dtypes(tmp_path):
    write(tmp_path / "x.jsonl", [{"x": [1, 2.5], "y": 1, "z": 1}, {"x": [3, 4], "y": 0.5, "z": 255}])
    dataset = JsonlDataset(str(tmp_path), dtypes={"x": "float32", "y": "float64", "z": "uint8"})
    batch = dataset.read_batch(0, 2)
    assert torch.equal(batch["x"], torch.tensor([[1, 2.5], [3, 4]]))
    assert torch.equal(batch["y"], torch.tensor([1, 0.5], dtype=torch.float64))
    assert torch.equal(batch["z"], torch.tensor([1, 255], dtype=torch.uint8))
    assert dataset[1]["x"].tolist() == [3, 4]


def test_whole_first_file_blank_and_no_rows_at_all(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    assert len(JsonlDataset(str(tmp_path))) == 0
    write(tmp_path / "b.jsonl", [{"x": 1}])
    assert JsonlDataset(str(tmp_path))[0]["x"].item() == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([b"", b"\r", b"{}", b'{"a":1}', b'"long line"\r']), max_size=8), max_size=3),
    st.integers(1, 20),
    st.booleans(),
    st.data(),
)
def test_line_index_finds_every_line(tmp_path, files, block, ends, data):
    paths = []
    expected = []
    for number, lines in enumerate(files):
        path = tmp_path / str(number)
        path.write_bytes(b"\n".join(lines) + (b"\n" if ends and lines else b""))
        paths.append(path)
        expected += [(line, path, i + 1) for i, line in enumerate(lines) if line not in (b"", b"\r")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_line_index, "_BLOCK_BYTES", block)
        index = LineIndex(paths)
        assert len(index) == len(expected)
        start = data.draw(st.integers(0, len(expected)))
        stop = data.draw(st.integers(start, len(expected)))
        assert index.read(start, stop) == [line for line, _, _ in expected[start:stop]]
        for number in range(start, stop):
            assert index.locate(number) == expected[number][1:]


BAD_LINES = [
    ('{"id": 1', r"b\.jsonl, line 3 \(sample 4\): this is no JSON"),
    ("[1]", r"line 3 \(sample 4\): expected a JSON object, but this is \[1\]"),
    ('{"x": 1}', r"line 3 \(sample 4\): there is no 'y'\. It has 'x'"),
    ('{"x": 1, "y": 2, "z": 3}', r"there is 'z', which the first row has not\. .*dataset\.columns"),
    ('{"x": 1.5, "y": 2}', r"'x' holds 1\.5, but the first row holds a int.*dataset\.dtypes\.x"),
    ('{"x": null, "y": 2}', "'x' holds null"),
    ('{"x": "1", "y": 2}', "'x' holds \"1\""),
    ('{"x": true, "y": 2}', "'x' holds true"),
    ('{"x": 9223372036854775808, "y": 2}', "'x' holds 9223372036854775808, beyond int64"),
    ("   ", "this is no JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_bad_lines_are_named(tmp_path, line, message):
    write(tmp_path / "a.jsonl", [{"x": 1, "y": 2}] * 3)
    (tmp_path / "b.jsonl").write_text('{"x": 1, "y": 2}\n\n' + line + "\n")
    dataset = JsonlDataset(str(tmp_path))
    assert dataset.read_batch(0, 4)["x"].tolist() == [1] * 4
    with pytest.raises(DatasetError, match=message):
        dataset.read_batch(2, 5)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([1], "float32", r"holds \[1\], which does not fit dataset\.dtypes\.x=float32, with shape \[2\]"),
        ([1, "a"], "float32", "expected numbers"),
        (None, "float32", "expected numbers"),
        ([[1], [2, 3]], "float32", r"holds \[\[1\], \[2, 3\]\]"),
        ([1.5, 2], "int64", "which holds no fractions"),
        ([300, 2], "uint8", "whose range it leaves"),
        ([-1, 2], "uint8", "whose range it leaves"),
    ],
)
def test_values_that_a_declared_dtype_would_change_are_refused(tmp_path, value, dtype, message):
    write(tmp_path / "x.jsonl", [{"x": [1, 2]}, {"x": value}])
    dataset = JsonlDataset(str(tmp_path), dtypes={"x": dtype})
    with pytest.raises(DatasetError, match=message) as caught:
        dataset.read_batch(0, 2)
    assert "line 2 (sample 1)" in str(caught.value)


def test_settings_that_do_not_fit(folder):
    with pytest.raises(ConfigError, match=r"dataset\.dtypes names column 'x', which is not read\. Read: 'id', 'score'"):
        JsonlDataset(str(folder), dtypes={"x": "float32"})
    for wrong in ("float23", "Tensor", "complex64"):
        with pytest.raises(ConfigError, match=f"dataset.dtypes.id is '{wrong}'; expected a torch dtype"):
            JsonlDataset(str(folder), dtypes={"id": wrong})
    with pytest.raises(DatasetError, match=r"a\.jsonl has no column 'x'\. Available: 'id'"):
        JsonlDataset(str(folder), ["x"])


def test_a_file_changed_while_open_is_noticed(folder):
    dataset = JsonlDataset(str(folder))
    write(folder / "a.jsonl", ROWS[:1])
    with pytest.raises(DatasetError, match=r"a\.jsonl was changed while it was being read"):
        dataset.read_batch(0, 3)
    (folder / "a.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"a\.jsonl cannot be read"):
        dataset.read_batch(0, 3)
