"""No process of ours listens on a port; under torchrun only its own agent does, of which the documentation warns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from job_requests import BATCH, INTERVAL, SAMPLES
from process_fixtures import linux_only
from processes import SUPPORT, Launched, Launcher, committed_chunks, until

pytestmark = linux_only

SCRIPT = str(SUPPORT / "rank_script.py")


@pytest.fixture
def options(output: Path) -> str:
    """Options of ``rank_script.py`` for a run of some seconds."""
    output.mkdir()
    call = {"output": str(output), "run_id": "run", "batch_size": BATCH, "checkpoint_interval": INTERVAL}
    call["claims"] = "dynamic"
    told = {"samples": SAMPLES, "told": str(output / "told"), "pause": 0.05, "calls": [call]}
    (output / "options.json").write_text(json.dumps(told))
    return str(output / "options.json")


def listening(launched: Launched) -> dict[int, set[str]]:
    """Return the TCP ports that each process of a family listens on."""
    ports = {}
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == "0A":
                ports[f"socket:[{fields[9]}]"] = fields[1]
    found = {}
    for info in launched.family():
        descriptors = Path(f"/proc/{info.pid}/fd")
        links = [os.readlink(each) for each in descriptors.iterdir() if each.is_symlink()]
        found[info.pid] = {ports[link] for link in links if link in ports}
    return found


def test_ranks_without_a_launcher_listen_nowhere(launch: Launcher, output: Path, options: str) -> None:
    ranks = [launch(SCRIPT, options, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    until(lambda: committed_chunks(output / "run") >= 2, "some chunks", 60)
    seen = [ports for rank in ranks for ports in listening(rank).values()]
    assert len(seen) >= 2 and set().union(*seen) == set()
    for rank in ranks:
        rank.finish(0)


@pytest.mark.campaign
def test_under_torchrun_only_its_agent_listens(launch: Launcher, output: Path, options: str) -> None:
    group = launch("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", SCRIPT, options)
    until(lambda: committed_chunks(output / "run") >= 2, "some chunks", 60)
    seen = listening(group)
    assert len(seen) >= 3 and seen.pop(group.pid), "the agent's own store, which docs/security.md tells of"
    assert set().union(*seen.values()) == set()
    group.finish(0)
