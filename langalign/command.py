"""What every command does with an error: one line on standard error, and an exit status."""

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from langalign.errors import ConfigError, LangAlignError

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_USAGE", "exit_status"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def exit_status(run: Callable[[], object]) -> int:
    """Run a command: 0 done, 1 failed, 2 bad usage (a key, value or file that was named)."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        run()
    except ConfigError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}")
        return EXIT_USAGE
    except LangAlignError as error:
        errors.print(f"[red]failed:[/red] {escape(str(error))}")
        return EXIT_FAILED
    return 0
