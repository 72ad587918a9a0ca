"""``batchmill`` and ``python -m batchmill``."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from batchmill.cli import app

    app(prog_name="batchmill")


if __name__ == "__main__":
    main()
