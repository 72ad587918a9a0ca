"""Batchmill: run PyTorch processors over whole datasets, committed exactly once.

This page is the public API. Names are imported when first used, so that ``import batchmill`` stays light and
commands that need no torch never load it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> module that defines it
_PUBLIC = {
    # running
    "torch_batch_process": "batchmill.batch_process",
    "run": "batchmill.api",
    "resume": "batchmill.api",
    "retry_quarantined": "batchmill.api",
    "iter_quarantined": "batchmill.outputs",
    "read_outputs": "batchmill.outputs",
    "iter_outputs": "batchmill.outputs",
    "RunRequest": "batchmill.contracts.run",
    "RunResult": "batchmill.contracts.run",
    "Selection": "batchmill.contracts.run",
    "ProgressSnapshot": "batchmill.contracts.run",
    "DistributedContext": "batchmill.contracts.distributed",
    # processors
    "TorchBatchProcessor": "batchmill.contracts.processor",
    "TorchBatchProcessorContext": "batchmill.engine.context",
    # reducers
    "MetricReducer": "batchmill.contracts.reducer",
    "ColumnReducer": "batchmill.contracts.reducer",
    "RowReducer": "batchmill.contracts.reducer",
    "Law": "batchmill.contracts.reducer",
    "Reducer": "batchmill.engine.value_reducers",
    "ExactSum": "batchmill.engine.exact_sum",
    # plugins
    "hookimpl": "batchmill.markers",
    "Kind": "batchmill.components",
    "Component": "batchmill.components",
    "ComponentRegistry": "batchmill.components",
    "setting": "batchmill.components",
    "safe_text": "batchmill.engine.safe_text",
    "Writer": "batchmill.contracts.writer",
    "ChunkOutput": "batchmill.contracts.writer",
    "INDEX_COLUMN": "batchmill.contracts.writer",
    "Storage": "batchmill.contracts.storage",
    "ObjectInfo": "batchmill.contracts.storage",
    "Claims": "batchmill.contracts.claims",
    "ClaimScope": "batchmill.contracts.claims",
    "ChunkQueue": "batchmill.contracts.claims",
    "Launcher": "batchmill.contracts.launcher",
    "Tracker": "batchmill.contracts.tracker",
    "Stateful": "batchmill.contracts.stateful",
    "ModelRecord": "batchmill.contracts.tracker",
    "VersionRecord": "batchmill.contracts.tracker",
    "CheckpointRecord": "batchmill.contracts.tracker",
    "MetricsRecord": "batchmill.contracts.tracker",
    "RunRecord": "batchmill.contracts.tracked_records",
    "RunLink": "batchmill.contracts.tracked_records",
    "ModelChanges": "batchmill.contracts.tracked_changes",
    "VersionChanges": "batchmill.contracts.tracked_changes",
    "CheckpointChanges": "batchmill.contracts.tracked_changes",
    # what first-party plugins share with everyone's
    "StaticClaims": "batchmill.engine.claims",
    "DynamicClaims": "batchmill.engine.claims",
    "InProcessLauncher": "batchmill.launch.in_process",
    "LocalLauncher": "batchmill.launch.local",
    "EnvironmentLauncher": "batchmill.launch.environment",
    # models
    "client": "batchmill.client",
    "Model": "batchmill.models",
    "ModelVersion": "batchmill.models",
    "Checkpoint": "batchmill.checkpoints",
    "TrackedRun": "batchmill.tracked_runs",
    # errors
    **dict.fromkeys(
        [
            "BatchmillError",
            "ConfigError",
            "UnknownComponentError",
            "PluginError",
            "DuplicateComponentError",
            "MissingHookimplError",
            "ConfigMismatchError",
            "AlreadyRunningError",
            "StorageError",
            "StorageFullError",
            "ObjectNotFoundError",
            "CorruptRunError",
            "RunNotFoundError",
            "DatasetError",
            "OutputError",
            "ReducerError",
            "ProcessorError",
            "ErrorBudgetError",
            "WorkerError",
            "ModelError",
        ],
        "batchmill.errors",
    ),
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'batchmill' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if _PUBLIC[name] == f"batchmill.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


if TYPE_CHECKING:
    from batchmill import client as client
    from batchmill.api import resume as resume
    from batchmill.api import retry_quarantined as retry_quarantined
    from batchmill.api import run as run
    from batchmill.batch_process import torch_batch_process as torch_batch_process
    from batchmill.checkpoints import Checkpoint as Checkpoint
    from batchmill.components import Component as Component
    from batchmill.components import ComponentRegistry as ComponentRegistry
    from batchmill.components import Kind as Kind
    from batchmill.components import setting as setting
    from batchmill.contracts.claims import ChunkQueue as ChunkQueue
    from batchmill.contracts.claims import Claims as Claims
    from batchmill.contracts.claims import ClaimScope as ClaimScope
    from batchmill.contracts.distributed import DistributedContext as DistributedContext
    from batchmill.contracts.launcher import Launcher as Launcher
    from batchmill.contracts.processor import TorchBatchProcessor as TorchBatchProcessor
    from batchmill.contracts.reducer import ColumnReducer as ColumnReducer
    from batchmill.contracts.reducer import Law as Law
    from batchmill.contracts.reducer import MetricReducer as MetricReducer
    from batchmill.contracts.reducer import RowReducer as RowReducer
    from batchmill.contracts.run import ProgressSnapshot as ProgressSnapshot
    from batchmill.contracts.run import RunRequest as RunRequest
    from batchmill.contracts.run import RunResult as RunResult
    from batchmill.contracts.run import Selection as Selection
    from batchmill.contracts.stateful import Stateful as Stateful
    from batchmill.contracts.storage import ObjectInfo as ObjectInfo
    from batchmill.contracts.storage import Storage as Storage
    from batchmill.contracts.tracked_changes import CheckpointChanges as CheckpointChanges
    from batchmill.contracts.tracked_changes import ModelChanges as ModelChanges
    from batchmill.contracts.tracked_changes import VersionChanges as VersionChanges
    from batchmill.contracts.tracked_records import RunLink as RunLink
    from batchmill.contracts.tracked_records import RunRecord as RunRecord
    from batchmill.contracts.tracker import CheckpointRecord as CheckpointRecord
    from batchmill.contracts.tracker import MetricsRecord as MetricsRecord
    from batchmill.contracts.tracker import ModelRecord as ModelRecord
    from batchmill.contracts.tracker import Tracker as Tracker
    from batchmill.contracts.tracker import VersionRecord as VersionRecord
    from batchmill.contracts.writer import INDEX_COLUMN as INDEX_COLUMN
    from batchmill.contracts.writer import ChunkOutput as ChunkOutput
    from batchmill.contracts.writer import Writer as Writer
    from batchmill.engine.claims import DynamicClaims as DynamicClaims
    from batchmill.engine.claims import StaticClaims as StaticClaims
    from batchmill.engine.context import TorchBatchProcessorContext as TorchBatchProcessorContext
    from batchmill.engine.exact_sum import ExactSum as ExactSum
    from batchmill.engine.safe_text import safe_text as safe_text
    from batchmill.engine.value_reducers import Reducer as Reducer
    from batchmill.errors import AlreadyRunningError as AlreadyRunningError
    from batchmill.errors import BatchmillError as BatchmillError
    from batchmill.errors import ConfigError as ConfigError
    from batchmill.errors import ConfigMismatchError as ConfigMismatchError
    from batchmill.errors import CorruptRunError as CorruptRunError
    from batchmill.errors import DatasetError as DatasetError
    from batchmill.errors import DuplicateComponentError as DuplicateComponentError
    from batchmill.errors import ErrorBudgetError as ErrorBudgetError
    from batchmill.errors import MissingHookimplError as MissingHookimplError
    from batchmill.errors import ModelError as ModelError
    from batchmill.errors import ObjectNotFoundError as ObjectNotFoundError
    from batchmill.errors import OutputError as OutputError
    from batchmill.errors import PluginError as PluginError
    from batchmill.errors import ProcessorError as ProcessorError
    from batchmill.errors import ReducerError as ReducerError
    from batchmill.errors import RunNotFoundError as RunNotFoundError
    from batchmill.errors import StorageError as StorageError
    from batchmill.errors import StorageFullError as StorageFullError
    from batchmill.errors import UnknownComponentError as UnknownComponentError
    from batchmill.errors import WorkerError as WorkerError
    from batchmill.launch.environment import EnvironmentLauncher as EnvironmentLauncher
    from batchmill.launch.in_process import InProcessLauncher as InProcessLauncher
    from batchmill.launch.local import LocalLauncher as LocalLauncher
    from batchmill.markers import hookimpl as hookimpl
    from batchmill.models import Model as Model
    from batchmill.models import ModelVersion as ModelVersion
    from batchmill.outputs import iter_outputs as iter_outputs
    from batchmill.outputs import iter_quarantined as iter_quarantined
    from batchmill.outputs import read_outputs as read_outputs
    from batchmill.tracked_runs import TrackedRun as TrackedRun
