"""Jobs as their users start them: in a process of their own, or `main` called in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# Of a whole run, with a cluster of its own about 80 s on two cores; 120 s were not enough on a slow
# machine. A process that hangs stays longer than any limit.
JOB_LIMIT_S = 270.0


@dataclass(frozen=True)
class Ended:
    """Exit status and output of one call of a job with `--json`."""

    status: int
    out: str
    err: str

    def summary(self) -> dict[str, Any]:
        """The JSON that ends the standard output of a run that went well."""
        assert self.status == 0, self.err
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found

    def refusal(self) -> str:
        """The one line that says why a run ended without a result."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith(("failed: ", "error: "))
        assert "Traceback" not in self.out
        return lines[0]


class Job:
    """Calls a job's `main` in this process."""

    def __init__(
        self,
        main: Callable[[], int],
        capture: pytest.CaptureFixture[str],
        patch: pytest.MonkeyPatch,
        *arguments: str,
    ) -> None:
        self.main, self.capture, self.patch = main, capture, patch
        self.arguments = arguments

    def __call__(self, root: str | Path, *arguments: str) -> Ended:
        argv = ["job", "--json", *self.arguments, f"storage={root}", *arguments]
        self.patch.setattr(sys, "argv", argv)
        status = self.main()
        return Ended(status, *self.capture.readouterr())


def start_train(
    inputs: Path, storage: str, *overrides: str, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """`jobs/train.py` in a process of its own, not waited for."""
    command = [sys.executable, "jobs/train.py", "--config", str(inputs), "--json"]
    return subprocess.Popen(
        [*command, f"storage={storage}", *overrides],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str], *, limit_s: float = JOB_LIMIT_S) -> Ended:
    """Wait for a job to end by itself; one that does not is killed, and what it said shown."""
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # Not for ever: what it started may hold its output open.
        out, err = process.communicate(timeout=10)
        pytest.fail(f"it did not end within {limit_s:g} s, and said:\n{out}\n{err}")
    return Ended(process.returncode, out, err)
