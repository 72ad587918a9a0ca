"""Messages between a supervisor and its workers: one JSON object per line over a Unix socket pair.

No port is opened: the worker inherits its end. End of file on either side means that the other one is gone.
"""

from __future__ import annotations

import json
import select
import socket
import threading
from typing import Any

_RECEIVE_BYTES = 1 << 16


class Channel:
    """One end of a supervisor-worker connection. Sending is safe from several threads.

    Args:
        connection: A connected stream socket, which the channel owns.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._received = b""

    def fileno(self) -> int:
        """Return the socket's file descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, kind: str, **values: Any) -> bool:
        """Send one message; returns False if the other side is gone."""
        data = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self._sending:
            try:
                self._socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def receive(self) -> list[dict[str, Any]] | None:
        """Wait for data and return the messages completed by it (perhaps none); None at end of file."""
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def receive_rest(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived, without waiting for more."""
        rest: list[dict[str, Any]] = []
        while select.select([self._socket], [], [], 0)[0] and (messages := self.receive()) is not None:
            rest += messages
        return rest

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
