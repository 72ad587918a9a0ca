"""The states of a run's stateful components: taken with every chunk, given back on resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from batchmill.contracts.stateful import Stateful
from batchmill.engine.serialization import decode_value, encode_value
from batchmill.errors import PluginError


class ComponentStates:
    """The stateful ones among a worker's components.

    Args:
        components: All selected components, with the keys under which config has them.
    """

    def __init__(self, components: Sequence[tuple[str, object]] = ()) -> None:
        self._components = {key: component for key, component in components if isinstance(component, Stateful)}
        self.reset()

    def take(self) -> dict[str, Any]:
        """Return what each component gathered in the chunk that ends, encoded for storage.

        Raises:
            PluginError: A component failed, or its state cannot be stored; the message names it.
        """
        states = {}
        for key, component in self._components.items():
            taken = _call(key, component.chunk_state)
            try:
                states[key] = encode_value(taken)
            except (TypeError, ValueError, RuntimeError) as error:
                raise PluginError(f"The state of {key} cannot be stored: {error}.") from error
        self.reset()
        return states

    def reset(self) -> None:
        """Let every component forget what it has gathered since the last chunk."""
        for key, component in self._components.items():
            _call(key, component.reset_state)

    def restore(self, records: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        """Give every component what is committed.

        Args:
            records: Reads the commit records, by ascending chunk; not called if nobody wants them.
        """
        for key, component in self._components.items():
            _call(key, lambda key=key, component=component: component.restore_states(_states(key, records())))  # type: ignore[misc]


def _states(key: str, records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Any]]:
    for record in records:
        if key in record.get("states", {}):
            yield record["chunk"], decode_value(record["states"][key])


def _call(key: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # a plugin's code may raise anything
        raise PluginError(
            f"{key} failed in its {Stateful.__name__} methods: {type(error).__name__}: {error}"
        ) from error
