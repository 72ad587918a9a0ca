"""A user's script, started once per rank: ``rank_script.py OPTIONS.json``; notes what each call returned in a file."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from jobs import Doubler, Values

import batchmill.engine.run


def main() -> int:
    options: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    warnings.simplefilter("error")
    if "patience" in options:
        batchmill.engine.run.TAKEOVER_PATIENCE = options["patience"]
    pause = options.get("pause", 0.0)
    journal = options.get("journal", "")

    class Processor(Doubler):
        def __init__(self, context: batchmill.TorchBatchProcessorContext) -> None:
            super().__init__(context, pause, journal)

    code = 0
    for arguments in options["calls"]:
        try:
            result = batchmill.torch_batch_process(Processor, Values(options["samples"]), **arguments)
        except batchmill.BatchmillError as error:
            told: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
            code = error.exit_code
        else:
            told = {"run_id": result.run_id, "complete": result.complete, "reason": result.stop_reason}
            code = result.exit_code
        told["rank"] = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
        with open(options["told"], "a") as file:
            file.write(json.dumps(told) + "\n")
        if code:
            print(told, file=sys.stderr)
            return code
    return code


if __name__ == "__main__":
    sys.exit(main())
