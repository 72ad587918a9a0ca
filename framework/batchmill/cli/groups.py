"""Groups of verbs that name the closest verb for one that is not there."""

from __future__ import annotations

import click

from batchmill.errors import did_you_mean


class VerbGroup(click.Group):
    """A click group with a hint for misspelt verbs."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, and name the closest one if there is none."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"There is no command {name!r}.{did_you_mean(name, self.commands)}")
        return super().resolve_command(ctx, args)
