"""The border to Hydra and OmegaConf: overrides and presets go in, plain checked values come out.

Nothing behind this package sees a ``DictConfig``, and nothing in it imports torch.

========================  ========================================================================
``compose``               command-line overrides -> ``RunRequest``
``compose_config``        the same, as the plain mapping that ``--cfg job`` prints
``from_mapping``          a plain mapping of that shape -> ``RunRequest``
``expand``                overrides with sweeps (``model.version=1,2,3``) -> ``Sweep``
``name_runs``             the jobs of a sweep -> the same with a run id each
``check``                 one component's name and settings -> ``Selection``
``as_config``             a ``RunRequest`` -> the mapping that ``--cfg job`` prints
``to_yaml``               a plain mapping as YAML
========================  ========================================================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchmill.settings.bind import as_config as as_config
    from batchmill.settings.bind import check as check
    from batchmill.settings.composition import compose as compose
    from batchmill.settings.composition import compose_config as compose_config
    from batchmill.settings.composition import from_mapping as from_mapping
    from batchmill.settings.composition import to_yaml as to_yaml
    from batchmill.settings.sweep import Sweep as Sweep
    from batchmill.settings.sweep import SweepJob as SweepJob
    from batchmill.settings.sweep import expand as expand
    from batchmill.settings.sweep import name_runs as name_runs

_MODULES = {
    "as_config": "bind",
    "check": "bind",
    "compose": "composition",
    "compose_config": "composition",
    "from_mapping": "composition",
    "to_yaml": "composition",
    "Sweep": "sweep",
    "SweepJob": "sweep",
    "expand": "sweep",
    "name_runs": "sweep",
}
__all__ = [
    "Sweep",
    "SweepJob",
    "as_config",
    "check",
    "compose",
    "compose_config",
    "expand",
    "from_mapping",
    "name_runs",
    "to_yaml",
]


# Hydra takes a third of a second to import, so the first use of a name loads it, and not this package.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'batchmill.settings' has no attribute {name!r}")
    return getattr(importlib.import_module(f"batchmill.settings.{_MODULES[name]}"), name)
