import subprocess
import sys

import pytest


@pytest.fixture
def start():
    """Start Python processes whose ``storage`` is that of the first argument; none outlives the test."""
    started = []
    opening = (
        "import sys; from batchmill_plugins.storage._local import LocalStorage; storage = LocalStorage(sys.argv[1])\n"
    )

    def run(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", opening + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def files_below():
    """Return the sorted relative paths of everything below a folder that is not a folder."""

    def find(folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())

    return find
