"""``python launch_job.py REQUEST.json``: runs a request as ``batchmill run`` would, with its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from batchmill.api import run_request
from batchmill.contracts.run import RunRequest
from batchmill.errors import BatchmillError


def main() -> int:
    request = RunRequest.from_json(json.loads(Path(sys.argv[1]).read_text()))
    try:
        result = run_request(request)
    except BatchmillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"complete": result.complete, "samples": result.samples, "reason": result.stop_reason}))
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
