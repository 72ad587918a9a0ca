"""The recipes: scripts that shells accept and that do what they say, manifests with fields that there are."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_pages import DOCS, blocks, headings, links

RECIPES = sorted((DOCS / "recipes").glob("*.md"))


def block(page: str, mark: str) -> str:
    (found,) = [each.text for each in blocks(DOCS / "recipes" / page) if each.mark == mark]
    return found


def test_every_recipe_is_there_and_linked() -> None:
    assert [page.stem for page in RECIPES] == ["kubernetes", "slurm", "spot"]
    linked = set(links(DOCS / "index.md"))
    assert {f"recipes/{page.name}" for page in RECIPES} <= linked


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, fragment = link.partition("#")
        path = (page.parent / target).resolve()
        assert path.exists(), link
        assert not fragment or fragment in [re.sub(r"\W+", "-", heading.lower()) for heading in headings(path)], link


@pytest.mark.parametrize("page", RECIPES, ids=lambda page: page.stem)
def test_scripts_parse(page: Path) -> None:
    for each in blocks(page):
        if each.language == "sh":
            done = subprocess.run(["bash", "-n", "-c", each.text], capture_output=True, text=True, check=False)
            assert done.returncode == 0 and not done.stderr, done.stderr


def commands(folder: Path, **scripts: str) -> dict[str, str]:
    """Put commands into a folder and return an environment that finds them first."""
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(folder)}


# As srun does: ends with its task's code, and passes a signal on.
SRUN = """
echo "$BATCHMILL_RUN_ID $BATCHMILL_GRACE $*" >> "$TMPDIR/told"
trap 'sleep 0.3; exit 75' USR1
[ -n "$ENDS_WITH" ] && exit "$ENDS_WITH"
while :; do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("number", "ends_with"), [(signal.SIGUSR1, ""), (signal.SIGTERM, ""), (None, "0"), (None, "78")]
)
def test_the_batch_script_requeues_what_was_stopped_early(
    tmp_path: Path, number: signal.Signals | None, ends_with: str
) -> None:
    environment = commands(tmp_path / "bin", srun=SRUN, scontrol='echo "scontrol $*" >> "$TMPDIR/told"')
    script = tmp_path / "job.sh"
    script.write_text(block("slurm.md", "sbatch"))
    told = tmp_path / "bin" / "told"
    job = subprocess.Popen(["bash", str(script)], env={**environment, "SLURM_JOB_ID": "7", "ENDS_WITH": ends_with})
    deadline = time.monotonic() + 20
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    if number is not None:
        job.send_signal(number)
    assert job.wait(20) == int(ends_with or 75)
    first, *rest = told.read_text().splitlines()
    assert first.startswith("night-7 75 --kill-on-bad-exit=0 batchmill run processor=torch_module")
    assert rest == (["scontrol requeue 7"] if number is not None else [])


def test_the_batch_script_s_options_are_read_by_sbatch() -> None:
    lines = block("slurm.md", "sbatch").splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [line for line in lines if line.startswith("#SBATCH ")]
    assert lines[1 : 1 + len(options)] == options, "sbatch reads no options below the first command"
    assert "#SBATCH --signal=B:USR1@90" in options and "#SBATCH --requeue" in options


def test_a_spot_notice_stops_the_run(tmp_path: Path) -> None:
    """The metadata service has its page at the third question; ``sleep`` takes no time."""
    curl = 'echo x >> "$TMPDIR/asked"; [ "$(wc -l < "$TMPDIR/asked")" -ge 5 ] || [[ "$*" == *PUT* ]]'
    run = 'for _ in {1..400}; do [ -e "$TMPDIR/spot-notice" ] && exit 75; /bin/sleep 0.02; done; exit 1'
    environment = commands(tmp_path / "bin", curl=curl, sleep="/bin/sleep 0.01", batchmill=run)
    script = tmp_path / "spot.sh"
    script.write_text(block("spot.md", "spot"))
    assert subprocess.run(["bash", str(script)], env=environment, timeout=60, check=False).returncode == 75


# The fields of batch/v1 that the manifest uses, by where they stand.
FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"completionMode", "completions", "parallelism", "backoffLimit", "podFailurePolicy", "template"},
    "spec.podFailurePolicy": {"rules"},
    "spec.podFailurePolicy.rules[]": {"action", "onExitCodes", "onPodConditions"},
    "spec.podFailurePolicy.rules[].onExitCodes": {"containerName", "operator", "values"},
    "spec.podFailurePolicy.rules[].onPodConditions[]": {"type", "status"},
    "spec.template": {"spec"},
    "spec.template.spec": {"restartPolicy", "terminationGracePeriodSeconds", "securityContext", "containers"},
    "spec.template.spec.securityContext": {"runAsNonRoot", "runAsUser"},
    "spec.template.spec.containers[]": {"name", "image", "command", "args", "env", "resources"},
    "spec.template.spec.containers[].env[]": {"name", "value", "valueFrom"},
    "spec.template.spec.containers[].env[].valueFrom": {"fieldRef", "secretKeyRef"},
    "spec.template.spec.containers[].env[].valueFrom.fieldRef": {"fieldPath"},
    "spec.template.spec.containers[].env[].valueFrom.secretKeyRef": {"name", "key"},
    "spec.template.spec.containers[].resources": {"limits"},
}


def check_fields(value: Any, where: str) -> None:
    if isinstance(value, list):
        for item in value:
            check_fields(item, f"{where}[]")
    elif isinstance(value, dict) and where in FIELDS:
        assert set(value) <= FIELDS[where], f"{where} has {set(value) - FIELDS[where]}"
        for key, item in value.items():
            check_fields(item, f"{where}.{key}".lstrip("."))


def test_the_manifest_says_what_the_page_says() -> None:
    job = yaml.safe_load(block("kubernetes.md", "job"))
    check_fields(job, "")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    (worker,) = pod["containers"]
    environment = {each["name"]: each.get("value") for each in worker["env"]}
    assert int(environment["WORLD_SIZE"]) == spec["completions"] == spec["parallelism"]
    assert float(environment["BATCHMILL_GRACE"]) < pod["terminationGracePeriodSeconds"]
    assert all(isinstance(value, str | None) for value in environment.values()), "Kubernetes takes texts only"
    actions = [
        (
            rule["action"],
            rule.get("onExitCodes", {}).get("values"),
            [c["type"] for c in rule.get("onPodConditions", [])],
        )
        for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert actions == [("Ignore", None, ["DisruptionTarget"]), ("Ignore", [75], []), ("FailJob", [2, 78], [])]
    assert all(
        rule["onExitCodes"]["containerName"] == worker["name"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    )
