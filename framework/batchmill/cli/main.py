"""The command group, and what happens to errors."""

from __future__ import annotations

from typing import Any

import click

from batchmill import __version__
from batchmill.cli.doctor import doctor
from batchmill.cli.failures import EXIT_INTERRUPTED, report, report_unexpected
from batchmill.cli.groups import VerbGroup
from batchmill.cli.metrics import metrics
from batchmill.cli.plugins import plugins
from batchmill.cli.quarantine import quarantined, retry_quarantined
from batchmill.cli.run import resume, run
from batchmill.cli.runs import ls, repair, show, verify
from batchmill.errors import EXIT_INTERNAL, BatchmillError


class Group(VerbGroup):
    """The group whose verbs may raise anything: each error ends in a message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except BatchmillError as error:
            report(error)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted. What is committed stays: `batchmill ls` lists runs, `batchmill resume RUN` "
                "continues one.",
                err=True,
            )
            ctx.exit(EXIT_INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own ways to end
        except Exception:
            report_unexpected()
            click.echo("Error: that was not expected; the traceback above says where it happened.", err=True)
            ctx.exit(EXIT_INTERNAL)


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 complete, 1 a --fail-if condition holds, 2 wrong use or configuration, 75 stopped early and "
    "resumable, 65 damaged or too many failures, 70 internal error, 73 already running, 74 storage, 78 other settings "
    "than the run's. BATCHMILL_FULL_ERROR=1 adds tracebacks.",
)
@click.version_option(__version__, prog_name="batchmill")
def app() -> None:
    """Run PyTorch models over whole datasets: every result committed exactly once.

    \b
    batchmill plugins                                   what there is to choose from
    batchmill run processor=NAME dataset=NAME ...       run it; kill it whenever you like
    batchmill ls                                        what ran, how far it got, its metrics
    batchmill resume RUN --nproc 4                      go on, with any number of workers
    batchmill retry-quarantined RUN                     try samples that failed again
    batchmill metrics --model NAME                      what runs reported, by version, best marked
    batchmill metrics compare A B --fail-if CONDITION   fail a pipeline when B is worse than A
    batchmill verify RUN                                check every digest and every index
    batchmill repair RUN                                set aside what is damaged, compute it again

    `batchmill VERB --help` explains each with examples.
    """  # noqa: D301 - click's mark


for command in (run, resume, ls, show, metrics, quarantined, retry_quarantined, verify, repair, plugins, doctor):
    app.add_command(command)
