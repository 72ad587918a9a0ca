"""The command line: one file per verb or family of verbs, all work behind ``batchmill.api`` and ``inspection``.

``main.py`` joins the verbs and turns errors into messages and exit codes; ``display.py`` knows rich; ``sweep.py`` runs
the jobs of ``run -m``. Nothing heavy is imported before a verb needs it.
"""

from batchmill.cli.main import app as app

__all__ = ["app"]
