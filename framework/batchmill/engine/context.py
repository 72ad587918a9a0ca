"""What a processor gets to work with: device, rank, files, reducers, reports and links."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from batchmill.components import Kind
from batchmill.contracts.distributed import DistributedContext
from batchmill.contracts.profiler import Profiler
from batchmill.engine.confidential import reveal
from batchmill.engine.reduction import ReducerSet
from batchmill.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from batchmill.engine.sideline import Sideline
    from batchmill.models import Checkpoint, ModelVersion

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


class TorchBatchProcessorContext:
    """Handed to a processor's ``__init__``, on every rank. Nothing in it communicates between ranks.

    Attributes:
        device: The device of this worker.
        run_id: Name of the run.
        checkpoint: Directory of the model version that config linked to the run (``model.name``), or None.
        model_version: That version, or None.
        profiler: What the processor's ``profiler`` is.
    """

    def __init__(
        self,
        *,
        run_id: str,
        device: torch.device,
        distributed: DistributedContext,
        hparams: Mapping[str, Any],
        reducers: ReducerSet,
        sideline: Sideline,
        profiler: Profiler,
        tensorboard_path: Path,
        resolve: Callable[[Kind, str], Any],
        model_version: ModelVersion | None = None,
    ) -> None:
        self.run_id = run_id
        self.device = device
        self.profiler = profiler
        self.model_version = model_version
        self.checkpoint = Path(model_version.checkpoint.location) if model_version is not None else None
        self._distributed = distributed
        self._hparams = dict(hparams)
        self._reducers = reducers
        self._sideline = sideline
        self._tensorboard_path = tensorboard_path
        self._resolve = resolve
        self._warned_types: set[type] = set()

    def to_device(self, data: Any) -> Any:
        """Return ``data`` with every tensor in it moved to this worker's device.

        Args:
            data: A tensor, or mappings, lists, tuples (also named ones) of them, nested as you like, or anything
                with a ``to`` method. Other values are returned as they are, with one warning per type.
        """
        if isinstance(data, torch.Tensor):
            return data.to(self.device, non_blocking=self.device.type == "cuda")
        if callable(getattr(data, "to", None)):  # also of containers: they know what must stay on the CPU
            return data.to(self.device)
        if isinstance(data, Mapping):
            moved = {key: self.to_device(value) for key, value in data.items()}
            return moved if type(data) is dict else _rebuild_mapping(data, moved)
        if isinstance(data, tuple):
            items = [self.to_device(item) for item in data]
            return type(data)(*items) if hasattr(data, "_fields") else type(data)(items)
        if isinstance(data, list):
            return [self.to_device(item) for item in data]
        if data is not None and not isinstance(data, (str, bytes, int, float, bool)):
            self._warn_once(type(data))
        return data

    def prepare_model_for_inference(self, model: ModuleT) -> ModuleT:
        """Return the module in evaluation mode on this worker's device."""
        model.eval()
        return model.to(self.device)

    @contextmanager
    def upload_path(self) -> Iterator[Path]:
        """Yield an empty directory; what is in it at the end is stored with the run.

        During a chunk (``process_batch``, ``on_checkpoint_start``) the files are committed together with the chunk,
        under ``files/<chunk>/``: exactly once. In ``__init__`` and ``on_finish`` they are stored at once under
        ``files/rank-<rank>/``. If the block raises, nothing is kept.

        Raises:
            OutputError: The directory holds a symbolic link, or a name that this chunk has a file of already.
        """
        with tempfile.TemporaryDirectory(prefix="batchmill-") as directory:
            path = Path(directory)
            yield path
            self._sideline.add_files(_files_below(path))

    def wrap_reducer(self, reducer: Any, name: str | None = None) -> Any:
        """Add a metric to the run and return the object to update.

        Call it in ``__init__``, in the same order on every rank.

        Args:
            reducer: A ``MetricReducer``, a member of ``batchmill.Reducer``, or a function of a list of values, which
                receives every value given to ``update`` in dataset order.
            name: Name of the metric; None for a reducer that returns a dict of metrics.

        Raises:
            ReducerError: It was wrapped before, its name is taken, or it is no reducer.
        """
        return self._reducers.wrap(reducer, name)

    def report_metrics(self, group: str, steps_completed: int, metrics: Mapping[str, Any]) -> None:
        """Report metrics of your own. During a chunk they are committed with it, else stored at once.

        Args:
            group: Name of the group, without ``.``.
            steps_completed: Where in the run they belong (a batch number, a rank, ...).
            metrics: Metric name to JSON value; a group and step may not repeat a name.

        Raises:
            ModelError: A rule is broken; the message names the group and the metric.
        """
        self._sideline.report(group, steps_completed, metrics)

    def report_task_using_model_version(self, model_version: ModelVersion) -> None:
        """Record that this run uses a model version, so that its metrics are found through the version."""
        self._sideline.link(model_version.checkpoint.uuid, model_version.model_name, model_version.version)

    def report_task_using_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record that this run uses a checkpoint, so that its metrics are found through the checkpoint."""
        self._sideline.link(checkpoint.uuid, None, None)

    def get_hparams(self) -> dict[str, Any]:
        """Return the run's ``hparams``, with ``model_name`` and ``model_version`` if config set them."""
        return dict(reveal(self._hparams, "hparams"))

    def get_tensorboard_path(self) -> Path:
        """Return a local directory for TensorBoard files of this rank."""
        self._tensorboard_path.mkdir(parents=True, exist_ok=True)
        return self._tensorboard_path

    def get_distributed_rank(self) -> int:
        """Return this worker's rank."""
        return self._distributed.rank

    def get_distributed_size(self) -> int:
        """Return the number of workers."""
        return self._distributed.size

    def resolve(self, kind: Kind, name: str) -> Any:
        """Return what is registered under a name, for settings that travel in files (a checkpoint's builder)."""
        return self._resolve(kind, name)

    def _warn_once(self, kind: type) -> None:
        if kind not in self._warned_types:
            self._warned_types.add(kind)
            warnings.warn(
                f"to_device was given a {kind.__module__}.{kind.__qualname__}, which cannot be moved; it stays as is.",
                stacklevel=4,
            )


def default_device(local_rank: int) -> torch.device:
    """Return the device for a worker of a machine: ``cuda:local_rank``, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", local_rank % torch.cuda.device_count())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_device(name: str, local_rank: int) -> torch.device:
    """Return the device that config names.

    Args:
        name: "auto", or a torch device; plain "cuda" means ``cuda:local_rank``.
        local_rank: This worker's number on its machine.

    Raises:
        ConfigError: The device is unknown or not there.
    """
    if name == "auto":
        return default_device(local_rank)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not a torch device; expected auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = local_rank % max(count, 1) if ":" not in name else device.index
        if index >= count:
            raise ConfigError(f"device {name!r} is not there; this machine has {count} CUDA devices.")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there on this machine; use cpu or auto.")
    return device


def _files_below(directory: Path) -> dict[str, bytes]:
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise OutputError(
                f"The directory of upload_path() holds {name!r}, which is a symbolic link. Copy the file that is meant."
            )
        if path.is_file():
            files[name] = path.read_bytes()
    return files


def _rebuild_mapping(original: Mapping[Any, Any], moved: dict[Any, Any]) -> Any:
    try:
        return type(original)(moved)  # type: ignore[call-arg]
    except TypeError:
        return moved
