import pytest
import torch
from torch.utils.data import TensorDataset

from batchmill import PluginError, ProcessorError, Stateful, TorchBatchProcessor, hookimpl, torch_batch_process
from batchmill.engine.states import ComponentStates


class Gathering(Stateful):
    """A callback that keeps the largest value of each chunk, and knows those of all chunks committed before."""

    def __init__(self, stop_after=None):
        self.stop_after, self.chunks = stop_after, 0
        self.restored = None

    def reset_state(self):
        self.largest = torch.tensor(float("-1"))

    @hookimpl
    def on_batch_end(self, outputs):
        self.largest = torch.maximum(self.largest, outputs["y"].max())

    def chunk_state(self):
        return {"largest": self.largest, "note": b"\x00\xff"}

    def restore_states(self, states):
        self.restored = {chunk: (float(state["largest"]), state["note"]) for chunk, state in states}

    @hookimpl
    def should_stop(self):
        self.chunks += 1
        return "enough" if self.chunks == self.stop_after else None


class Plain(TorchBatchProcessor):
    fails_on = -1

    def __init__(self, context):
        pass

    def process_batch(self, batch, batch_idx):
        if batch_idx == self.fails_on:
            raise RuntimeError("broken")
        return {"y": batch[0]}


DATA = TensorDataset(torch.arange(50.0))


def go(output, callback, processor=Plain, **more):
    return torch_batch_process(
        processor, DATA, 5, checkpoint_interval=2, output=output, run_id="x", callbacks={"mine": callback}, **more
    )


def test_a_resume_is_given_what_was_committed_before(tmp_path):
    first, second = Gathering(stop_after=2), Gathering()
    assert not go(tmp_path, first).complete
    assert first.restored == {}
    assert go(tmp_path, second).complete
    assert second.restored == {0: (9.0, b"\x00\xff"), 1: (19.0, b"\x00\xff")}


def test_a_chunk_that_was_dropped_leaves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(Plain, "fails_on", 3)
    with pytest.raises(ProcessorError, match="broken"):
        go(tmp_path, Gathering(), on_error="fail")
    monkeypatch.setattr(Plain, "fails_on", -1)
    last = Gathering()
    assert go(tmp_path, last).complete
    assert last.restored == {0: (9.0, b"\x00\xff")}
    final = Gathering()
    (tmp_path / "x/_SUCCESS").unlink()
    (tmp_path / "x/result.json").unlink()
    assert go(tmp_path, final).complete
    assert {chunk: largest for chunk, (largest, _) in final.restored.items()} == {
        0: 9.0, 1: 19.0, 2: 29.0, 3: 39.0, 4: 49.0,
    }  # fmt: skip


def test_a_component_may_be_added_on_resume(tmp_path):
    class StopAtOnce:
        @hookimpl
        def should_stop(self):
            return "enough"

    assert not go(tmp_path, StopAtOnce()).complete
    late = Gathering()
    assert go(tmp_path, late).complete
    assert late.restored == {}, "chunks that were committed without it are left out"


def test_a_state_that_cannot_be_stored_is_told_with_the_component():
    class Odd(Gathering):
        def chunk_state(self):
            return object()

    states = ComponentStates([("callbacks.odd", Odd()), ("writer", object())])
    with pytest.raises(PluginError, match=r"The state of callbacks\.odd cannot be stored"):
        states.take()


def test_an_error_of_a_component_is_told_with_its_key():
    class Broken(Gathering):
        def restore_states(self, states):
            raise KeyError("largest")

    with pytest.raises(PluginError, match=r"callbacks\.mine failed.*KeyError: 'largest'"):
        ComponentStates([("callbacks.mine", Broken())]).restore(list)


def test_records_are_not_read_if_nobody_wants_them():
    def records():
        raise AssertionError("read")

    ComponentStates([("writer", object())]).restore(records)
