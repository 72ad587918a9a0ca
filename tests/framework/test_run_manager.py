from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import batchmill
from batchmill.errors import MissingHookimplError, PluginError
from batchmill.plugin_manager import make_run_manager


class Recorder:
    """A run component that notes its calls."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    @batchmill.hookimpl
    def on_checkpoint_start(self, chunk: int) -> None:
        self.calls.append(f"{self.name}{chunk}")


@dataclass
class EqualCallback:
    """Two of these with the same settings are equal."""

    level: int = 1

    @batchmill.hookimpl
    def on_progress(self, progress: Any) -> None:
        progress.append(self.level)


@hypothesis_settings(max_examples=20)
@given(st.permutations("abcde"))
def test_calls_in_config_order(names: list[str]) -> None:
    calls: list[str] = []
    manager = make_run_manager([(name, Recorder(name, calls)) for name in names])
    manager.hook.on_checkpoint_start(chunk=7)
    assert calls == [f"{name}7" for name in names]


def test_first_reason_to_stop_in_config_order_counts() -> None:
    class Stop:
        def __init__(self, reason: str | None) -> None:
            self.reason = reason

        @batchmill.hookimpl
        def should_stop(self) -> str | None:
            return self.reason

    manager = make_run_manager([("a", Stop(None)), ("b", Stop("second")), ("c", Stop("third"))])
    assert manager.hook.should_stop(context=None) == "second"


def test_equal_components_are_two() -> None:
    manager = make_run_manager([("a", EqualCallback()), ("b", EqualCallback())])
    told: list[int] = []
    manager.hook.on_progress(progress=told)
    assert told == [1, 1]


def test_a_component_whose_equality_is_no_truth_value() -> None:
    class Array(EqualCallback):
        def __eq__(self, other: object) -> Any:
            raise ValueError("the truth value is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    manager = make_run_manager([("a", Array()), ("b", Array())])
    told: list[int] = []
    manager.hook.on_progress(progress=told)
    assert told == [1, 1]


def test_properties_are_not_run_and_invented_methods_not_believed() -> None:
    class Lazy:
        @property
        def data(self) -> None:
            raise AssertionError("loads a terabyte")

        def __getattr__(self, name: str) -> Any:
            return lambda *args: None

    make_run_manager([("dataset", Lazy())])


def test_an_unmarked_hook_is_refused_by_its_key() -> None:
    class Forgot:
        def on_finish(self, result: Any) -> None: ...

    with pytest.raises(MissingHookimplError) as caught:
        make_run_manager([("callbacks.mine", Forgot())])
    assert (caught.value.component, caught.value.hook) == ("callbacks.mine", "on_finish")
    assert "@batchmill.hookimpl" in str(caught.value)


def test_a_marked_method_that_is_no_hook_is_refused() -> None:
    class Misspelt:
        @batchmill.hookimpl
        def on_batch_ended(self) -> None: ...

    with pytest.raises(PluginError, match="on_batch_ended"):
        make_run_manager([("callbacks.mine", Misspelt())])


def test_an_argument_that_is_not_offered_is_refused() -> None:
    class Wrong:
        @batchmill.hookimpl
        def on_progress(self, percentage: float) -> None: ...

    with pytest.raises(PluginError, match=r"callbacks\.mine does not fit .*percentage"):
        make_run_manager([("callbacks.mine", Wrong())])


def test_hooks_may_be_static_or_given_to_the_instance() -> None:
    told: list[str] = []

    class Static:
        @staticmethod
        @batchmill.hookimpl
        def on_progress(progress: list[str]) -> None:
            progress.append("static")

    class Bare:
        pass

    @batchmill.hookimpl
    def on_progress(progress: list[str]) -> None:
        progress.append("instance")

    bare = Bare()
    bare.on_progress = on_progress  # type: ignore[attr-defined]
    make_run_manager([("a", Static()), ("b", bare)]).hook.on_progress(progress=told)
    assert told == ["static", "instance"]


def test_nobody_listening_costs_nothing() -> None:
    manager = make_run_manager([("a", object())])
    assert manager.hook.on_batch_end.get_hookimpls() == []
