import json
from pathlib import Path

import pytest

import batchmill


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("hello", "good morning", "hey")))
    return path


@pytest.mark.parametrize(
    ("choice", "ending"), [("shout", "!"), ("shout_loud", "!!!")], ids=["schema defaults", "preset"]
)
def test_texts_are_shouted(tmp_path: Path, texts: Path, choice: str, ending: str) -> None:
    result = batchmill.run(
        [f"processor={choice}", "dataset=jsonl", f"dataset.path={texts}", f"output={tmp_path}", "callbacks=[]"]
    )
    rows = batchmill.read_outputs(result).to_pydict()
    assert rows == {"_index": [0, 1, 2], "shout": [f"{text}{ending}" for text in ("HELLO", "GOOD MORNING", "HEY")]}


def test_negative_marks_are_refused(tmp_path: Path, texts: Path) -> None:
    overrides = ["processor=shout", "processor.marks=-1", "dataset=jsonl", f"dataset.path={texts}"]
    with pytest.raises(batchmill.ConfigError, match="marks is -1"):
        batchmill.run([*overrides, f"output={tmp_path}", "callbacks=[]"])
