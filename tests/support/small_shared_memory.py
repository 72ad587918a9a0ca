"""``python small_shared_memory.py KIB SCRIPT ARGUMENTS``: runs a script with so little shared memory.

Exits with 99 where a process may not have a /dev/shm of its own.
"""

from __future__ import annotations

import ctypes
import runpy
import subprocess
import sys

_NEW_MOUNTS = 0x00020000
NOT_ALLOWED = 99


def main() -> None:
    size, script, *arguments = sys.argv[1:]
    private = ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0
    steps = (["mount", "--make-rprivate", "/"], ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", "/dev/shm"])
    if not private or any(subprocess.run(step, check=False, capture_output=True).returncode for step in steps):
        sys.exit(NOT_ALLOWED)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
