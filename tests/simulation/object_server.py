"""A model of an object store: puts are atomic and durable, answers may be lost, refused, late or repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from .scheduler import KilledInFlight


class ServiceError(Exception):
    """What the client library raises for a time-out, a reset connection, 409, 429 or 503."""


class Requests(Protocol):
    """What may interfere with a request."""

    def send(self, verb: str, path: str) -> str:
        """Let others come first; return the request's fate: "" or the name of a fault."""

    def answer(self, verb: str, path: str) -> None:
        """Let others come first, between the server's work and its answer."""


class ObjectServer:
    """A bucket with strong consistency and conditional puts.

    Args:
        requests: Interferes with requests.
        changed: Told of each change: path, old bytes, new bytes.
        rng: Decides when late requests arrive.
    """

    def __init__(self, requests: Requests, changed: Callable[[str, object, object], None], rng: random.Random) -> None:
        self._requests, self._changed, self._rng = requests, changed, rng
        self.objects: dict[str, bytes] = {}
        self._before: dict[str, bytes] = {}
        self._late: list[Callable[[], object]] = []

    def put(self, path: str, data: bytes, exclusive: bool) -> bool:
        """Store an object; False if it was to be created and is there already.

        Raises:
            ServiceError: The answer is unclear.
        """
        return self._request("create" if exclusive else "put", path, lambda: self._put(path, data, exclusive))

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        self._request("delete", path, lambda: self._delete(path))

    def get(self, path: str) -> bytes:
        """Return an object.

        Raises:
            FileNotFoundError: There is none.
        """
        self._read("get", path)
        return self._existing(path)

    def head(self, path: str) -> None:
        """Raise ``FileNotFoundError`` unless the object is there."""
        self._read("head", path)
        self._existing(path)

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return paths and sizes of the objects whose path begins with ``prefix``."""
        stale = self._read("list", prefix) == "stale"
        objects = self._before if stale else self.objects
        return sorted((path, len(data)) for path, data in objects.items() if path.startswith(prefix))

    def deliver_late(self) -> None:
        """Let every request arrive that is still under way."""
        for arrive in self._late:
            arrive()
        self._late.clear()

    def _request(self, verb: str, path: str, apply: Callable[[], bool]) -> bool:
        try:
            fate = self._requests.send(verb, path)
        except KilledInFlight:
            if self._rng.random() < 0.5:
                self._late.append(apply)
            raise
        self._some_arrive()
        if fate == "late":
            self._late.append(apply)
        elif fate not in ("", "after", "repeated"):
            raise ServiceError(f"503 Slow Down: {path}" if fate == "before" else f"409 Conflict: {path}")
        else:
            done = apply()
            self._requests.answer(verb, path)
            if fate == "repeated":  # the client library sent it again by itself, and tells of the second time
                done = apply()
            if not fate or fate == "repeated":
                return done
        raise ServiceError(f"operation timed out: {path}")

    def _read(self, verb: str, path: str) -> str:
        fate = self._requests.send(verb, path)
        self._some_arrive()
        if fate == "before":
            raise ServiceError(f"503 Slow Down: {path}")
        return fate

    def _some_arrive(self) -> None:
        while self._late and self._rng.random() < 0.1:
            self._late.pop(int(self._rng.random() * len(self._late)))()

    def _put(self, path: str, data: bytes, exclusive: bool) -> bool:
        if exclusive and path in self.objects:
            return False
        self._change(path, data)
        return True

    def _delete(self, path: str) -> bool:
        self._change(path, None)
        return True

    def _change(self, path: str, data: bytes | None) -> None:
        self._changed(path, self.objects.get(path), data)
        if self._rng.random() < 0.5:
            self._before = dict(self.objects)
        if data is None:
            self.objects.pop(path, None)
        else:
            self.objects[path] = data

    def _existing(self, path: str) -> bytes:
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]
