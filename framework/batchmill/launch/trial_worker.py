"""A trial process: ``python -m batchmill.launch.trial_worker``, started by ``trial_process.py``."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys

from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.run import RunRequest
from batchmill.errors import BatchmillError
from batchmill.launch.channel import Channel
from batchmill.launch.local_worker import CHANNEL_VARIABLE, die_with_parent

TRACE_VARIABLE = "BATCHMILL_TRIAL_TRACE"


def main() -> None:
    """Answer trials until the other side has gone."""
    die_with_parent()
    trace = open(os.environ.pop(TRACE_VARIABLE), "w", encoding="utf-8")
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGUSR2, trace)
    channel = Channel(socket.socket(fileno=int(os.environ.pop(CHANNEL_VARIABLE))))
    trial = None
    while (messages := channel.receive()) is not None:
        for message in messages:
            if message["kind"] == "request":
                from batchmill.engine.trial_run import TrialRun
                from batchmill.plugin_manager import get_catalog

                request = RunRequest.from_json(message["request"])
                try:
                    trial = TrialRun(request, get_catalog().registry, DistributedContext(*message["distributed"]))
                except BatchmillError as error:
                    channel.send("broken", message=str(error))
                    return
                channel.send("ready")
            else:
                assert trial is not None, "a request comes first"
                channel.send("passed", error=trial.attempt(message["batch_idx"], message["positions"]))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
