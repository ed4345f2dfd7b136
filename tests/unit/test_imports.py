"""What starting a process costs: libraries that take seconds to import are left until needed."""

import subprocess
import sys

import pytest

HEAVY = {"peft", "sklearn", "torch._dynamo", "transformers"}


@pytest.mark.parametrize(
    "module", ["cluster.bundle", "cluster.pipeline", "cluster.units", "serve.app"]
)
def test_drivers_and_workers_that_load_no_encoder_import_none_of_them(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
