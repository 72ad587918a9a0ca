"""``batchmill doctor``: whether this machine can run what it should."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from batchmill import __version__
from batchmill.cli.display import show_facts, show_json
from batchmill.cli.locate import output_option
from batchmill.errors import EXIT_STORAGE, BatchmillError

_PACKAGES = (
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "pluggy",
    "obstore",
    "pyarrow",
    "safetensors",
    "click",
    "rich",
)
# Variables that change what a run does. Names with credentials (AWS_*, ...) are never read here.
_VARIABLES = (
    "BATCHMILL_PLUGINS",
    "BATCHMILL_DISABLE_PLUGINS",
    "BATCHMILL_FULL_ERROR",
    "BATCHMILL_RUN_ID",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_JOB_ID",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
)


@click.command()
@output_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, output: str, as_json: bool) -> None:
    """Check versions, devices, plugins and storage.

    The place where runs are to be written is tried out with a temporary file: it must let exactly one of several
    writers create a name, for that is what commits rest on. Exits with 74 if it does not.

    \b
      batchmill doctor
      batchmill doctor --output s3://bucket/runs
    """  # noqa: D301 - click's mark
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "batchmill": __version__,
        "packages": versions(),
        "devices": devices(),
        "plugins": plugin_problems(),
        "output": {"path": output, **probe_output(output)},
        "environment": seen_variables(os.environ),
    }
    if as_json:
        show_json(report)
    else:
        _show(report)
    if not report["output"]["ok"]:
        ctx.exit(EXIT_STORAGE)


def versions() -> dict[str, str]:
    """Return the installed version of every package that Batchmill stands on, or "not installed"."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def devices() -> list[str]:
    """Return what torch can compute on, in words."""
    try:
        import torch
    except Exception as error:  # a torch that does not fit the machine fails in many ways; say which
        return [f"torch cannot be imported: {type(error).__name__}: {error}"]
    found = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    found += [f"cuda:{index}: {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def plugin_problems() -> list[dict[str, str]]:
    """Return the plugins that are not loaded, with the reason."""
    from batchmill.plugin_manager import get_catalog

    return [
        {"name": info.name, "version": info.version, "status": info.status, "error": info.error}
        for _, info in sorted(get_catalog().plugins.items())
        if info.status != "loaded"
    ]


def seen_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that change what a run does, as far as they are set."""
    return {name: environ[name] for name in _VARIABLES if name in environ}


def probe_output(output: str) -> dict[str, Any]:
    """Try out the place where runs are to be written.

    Args:
        output: Directory or URL. A directory that does not exist yet is tried in its nearest parent.

    Returns:
        ``ok``, and what was tried: each with True, False or the error.
    """
    return probe_store(output) if "://" in output else probe_directory(Path(output))


def probe_directory(directory: Path) -> dict[str, Any]:
    """Try exclusive create, hard links and fsync in a local directory; nothing is left behind."""
    tried = directory.expanduser().resolve()
    while not tried.is_dir():
        tried = tried.parent
    checks: dict[str, Any] = {"tried in": str(tried)}
    try:
        with tempfile.TemporaryDirectory(prefix=".batchmill-doctor-", dir=tried) as folder:
            first = os.path.join(folder, "first")
            checks["exclusive create"] = _exclusive(first)
            checks["hard links"] = _works(lambda: os.link(first, os.path.join(folder, "second")))
            checks["fsync of files"] = _works(lambda: _fsync(first, os.O_RDWR))
            checks["fsync of folders"] = _works(lambda: _fsync(folder, os.O_RDONLY))
    except OSError as error:
        checks["write"] = f"{type(error).__name__}: {error}"
        return {"ok": False, **checks}
    return {"ok": checks["exclusive create"] is True, **checks}


def _exclusive(path: str) -> bool | str:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        os.close(os.open(path, flags, 0o600))
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        return True
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return False


def _fsync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _works(attempt: Any) -> bool | str:
    try:
        attempt()
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return True


def probe_store(url: str) -> dict[str, Any]:
    """Try exclusive create in an object store; the object is removed again."""
    from batchmill.engine.assembly import Assembler, open_storage
    from batchmill.plugin_manager import get_catalog

    name = f".batchmill-doctor-{uuid.uuid4().hex}"
    try:
        storage = open_storage(Assembler(get_catalog().registry), url)
        try:
            won = storage.put_if_absent(name, b"first"), storage.put_if_absent(name, b"second")
        finally:
            storage.delete(name)
    except BatchmillError as error:
        return {"ok": False, "write": str(error)}
    return {"ok": won == (True, False), "exclusive create": won == (True, False)}


def _show(report: Mapping[str, Any]) -> None:
    def words(value: object) -> object:
        return {True: "yes", False: "NO"}[value] if isinstance(value, bool) else value

    facts: list[tuple[str, object]] = [
        ("batchmill", report["batchmill"]),
        ("python", f"{report['python']} ({sys.executable})"),
        ("platform", report["platform"]),
        *report["packages"].items(),
        *(("device", device) for device in report["devices"]),
    ]
    show_facts("Versions and devices", facts)
    place = [(key, words(value)) for key, value in report["output"].items() if key != "ok"]
    verdict = "can hold runs" if report["output"]["ok"] else "CANNOT hold runs"
    show_facts(f"The output {verdict}", place)
    if report["plugins"]:
        rows = [(each["name"], f"{each['status']} {each['error']}".strip()) for each in report["plugins"]]
        show_facts("Plugins that are not loaded", rows)
    if report["environment"]:
        show_facts("Environment", report["environment"].items())
