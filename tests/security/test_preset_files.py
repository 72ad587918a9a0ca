"""YAML in a user's folder: bombs, depth, tags and ways out of the folder end in one clear error, at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from batchmill import settings
from batchmill.errors import ConfigError
from batchmill.settings.preset_files import MOST_BYTES, MOST_DEPTH, MOST_NODES, fault_of

BASE = ["dataset=jsonl", "dataset.path=data.jsonl"]

LAUGHS = "defaults: [torch_module]\nbuilder_args:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
HOSTILE = {
    "a thousand million laughs": (LAUGHS, "has an alias"),
    "a merge of aliases": ("defaults: [torch_module]\nbuilder_args: &x {a: 1}\nkeep:\n  <<: *x\n", "has an alias"),
    "a list inside itself": ("builder_args: &x [*x]\n", "has an alias"),
    "depth": (f"builder_args: {'[' * 2000}{']' * 2000}\n", f"nested more than {MOST_DEPTH} levels"),
    "depth by indentation": ("\n".join(" " * i + f"k{i}:" for i in range(400)) + " 1\n", "nested more than"),
    "many values": (f"keep: [{','.join(['a'] * (MOST_NODES + 1))}]\n", "has more than 50,000 values"),
    "size": ("# " + "x" * MOST_BYTES, "is larger than 1 MiB"),
    "a Python object": ("builder: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    "a Python tuple": ("keep: !!python/tuple [a]\n", "could not determine a constructor"),
    "a tag of one's own": ("keep: !mine [a]\n", "could not determine a constructor"),
    "binary": ("keep: !!binary AAAA\n\0", "cannot be read"),
    "no YAML": ("keep: [a\n", "cannot be read"),
    "two documents": ("builder: mlp\n---\nbuilder: mlp\n", "expected a single document"),
}


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    (tmp_path / "presets" / "processor").mkdir(parents=True)
    return tmp_path / "presets"


@pytest.mark.parametrize(("text", "said"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_preset_ends_in_an_error_at_once(text: str, said: str, presets: Path) -> None:
    (presets / "processor" / "mine.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=said) as caught:
        settings.compose(["processor=mine", *BASE], config_dir=presets)
    assert time.monotonic() - began < 5 and len(str(caught.value)) < 1000


def test_a_hostile_preset_that_nobody_chose_does_no_harm(presets: Path) -> None:
    (presets / "processor" / "mine.yaml").write_text(LAUGHS)
    given = ["processor=torch_module", "processor.builder=mlp", *BASE]
    assert settings.compose(given, config_dir=presets).processor.name == "torch_module"


@pytest.mark.parametrize("name", ["../../outside", "x/../../../outside", "link", "linked/outside", "{absolute}"])
def test_no_preset_is_read_from_outside_the_folder(name: str, presets: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("defaults: [torch_module]\nbuilder: mlp\n")
    (presets / "processor" / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (presets / "processor" / "linked").symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        settings.compose([f"processor={name.format(absolute=tmp_path / 'outside')}", *BASE], config_dir=presets)


def test_a_preset_of_ordinary_size_is_fine() -> None:
    assert fault_of(b"a: {b: [1, 2, {c: null}]}\n") == ""
    assert fault_of(("\n".join(f"k{i}: [1, 2, 3]" for i in range(5000))).encode()) == ""
