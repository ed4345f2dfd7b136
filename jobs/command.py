"""The command line that every job shares: `[--config FILE] [--json] [key=value ...]`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console

from langalign.command import EXIT_INTERRUPTED, exit_status
from langalign.configfile import describe_keys, load_config
from langalign.jsontext import dump_json

__all__ = ["Arguments", "run_job"]

Config = TypeVar("Config", bound=BaseModel)


class Arguments(argparse.Namespace):
    """What was given: a config file, `key=value` overrides, and whether to end with JSON."""

    config: Path | None
    json: bool
    overrides: list[str]


def run_job(
    model: type[Config],
    run: Callable[[Config, Console], dict[str, Any]],
    *,
    summary: str,
    examples: str,
    default_config: Callable[[Arguments], Path | None] = lambda arguments: arguments.config,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, build the config, run, and turn errors into one line; returns the exit status.

    0 done, 1 failed, 2 bad usage (key, value or file named), 130 interrupted.
    """
    console = Console(soft_wrap=True)

    def job() -> None:
        arguments = _parse(model, summary, examples, argv)
        config = load_config(model, default_config(arguments), arguments.overrides)
        result = run(config, console)
        if arguments.json:
            sys.stdout.write(dump_json(result) + "\n")

    try:
        return exit_status(job)
    except KeyboardInterrupt:
        errors = Console(stderr=True, soft_wrap=True)
        errors.print("interrupted; the same command goes on from the last finished step")
        return EXIT_INTERRUPTED


def _parse(
    model: type[BaseModel], summary: str, examples: str, argv: Sequence[str] | None
) -> Arguments:
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=f"{_keys(model)}\n\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with the keys below")
    parser.add_argument("--json", action="store_true", help="last line of stdout: the summary")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as in seed=1")
    return parser.parse_args(argv, namespace=Arguments())


def _keys(model: type[BaseModel]) -> str:
    rows = [(key, f"{kind} = {default}", text) for key, kind, default, text in describe_keys(model)]
    width = max(len(key) for key, *_ in rows)
    lines = ["keys (type = default, meaning):"]
    for key, kind, text in rows:
        lines.append(f"  {key:<{width}}  {kind}\n  {'':<{width}}      {text}")
    return "\n".join(lines)
