"""Who may import whom: langalign ← cluster ← jobs and langalign ← serve; and nothing unpickles.

Jobs may also import the service's client.

Read from the source, so that an import inside a function counts too, and tried in a new process,
so that what other libraries drag in counts as well.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("langalign", "cluster", "jobs", "serve")
MAY_NOT_IMPORT = {
    "langalign": {"ray", "cluster", "jobs", "serve"},
    "cluster": {"jobs", "serve"},
    "jobs": {"serve"},
    "serve": {"cluster", "jobs"},
}
# A client of a service that runs elsewhere: nothing of Ray Serve or FastAPI.
MAY_IMPORT = {"jobs": ("serve.client.", "serve.labels.")}
UNSAFE_CALLS = {
    *(
        f"{module}.{name}"
        for module in ("pickle", "cloudpickle", "dill")
        for name in ("load", "loads")
    ),
    *("torch.load", "joblib.load", "pickle.Unpickler"),
    *(f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load")),
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, local name, dotted target) of every absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, bound, alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, "", str(argument.value)


def called(node: ast.Call) -> str:
    """The dotted name of what is called; empty where it has none."""
    parts: list[str] = []
    target: ast.expr = node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    return ".".join([target.id, *reversed(parts)]) if isinstance(target, ast.Name) else ""


def forbidden_imports(source: str, room: str) -> list[str]:
    """`line: module` of every import that the room may not have."""
    return [
        f"{line}: {name}"
        for line, _, name in imports(ast.parse(source))
        if name.split(".")[0] in MAY_NOT_IMPORT[room]
        and not name.startswith(MAY_IMPORT.get(room, ()))
    ]


def unsafe_calls(source: str) -> list[str]:
    """`line: function` of every call that may run code found in the bytes it reads."""
    tree = ast.parse(source)
    bound = {local: target for _, local, target in imports(tree)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = called(node).partition(".")
            name = ".".join(filter(None, [bound.get(first, first), rest]))
            if name in UNSAFE_CALLS:
                found.append(f"{node.lineno}: {name}")
    return found


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_imports_what_its_room_may_not(room: str) -> None:
    found = {
        str(path.relative_to(ROOT)): faults
        for path in sources(room)
        if (faults := forbidden_imports(path.read_text(encoding="utf-8"), room))
    }
    assert not found


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_reads_a_pickle_or_unsafe_yaml(room: str) -> None:
    found = {
        str(path.relative_to(ROOT)): faults
        for path in sources(room)
        if (faults := unsafe_calls(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_the_rooms_are_found() -> None:
    assert ROOT / "langalign" / "errors.py" in sources("langalign")
    assert sources("cluster")
    assert sources("jobs")


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import ray", ["1: ray"]),
        ("import os, ray.data as d", ["1: ray.data"]),
        ("def f():\n    from ray import train", ["2: ray.train"]),
        ("from cluster.train import fit", ["1: cluster.train.fit"]),
        ("import importlib\nimportlib.import_module('ray.data')", ["2: ray.data"]),
        ("import rayleigh\nfrom langalign import serve_me\nfrom . import ray", []),
    ],
)
def test_the_rule_sees_every_way_to_import(source: str, faults: list[str]) -> None:
    assert forbidden_imports(source, "langalign") == faults


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import torch\ntorch.load('x')", ["2: torch.load"]),
        ("import torch as t\nt.load('x')", ["2: torch.load"]),
        ("from pickle import loads as read\nread(b'')", ["2: pickle.loads"]),
        ("import yaml\nyaml.load(text, Loader=yaml.Loader)", ["2: yaml.load"]),
        ("import yaml, json\nyaml.safe_load(text)\njson.load(file)", []),
        ("def load(x): ...\nload(1)", []),
    ],
)
def test_the_rule_sees_every_way_to_call(source: str, faults: list[str]) -> None:
    assert unsafe_calls(source) == faults


@pytest.mark.slow
def test_importing_all_of_langalign_brings_in_no_ray() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("langalign")
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'ray', 'cluster', 'jobs', 'serve'} & set(sys.modules), name\n"
        "print(sum(name.split('.')[0] == 'langalign' for name in sys.modules))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[-1]) >= len(modules)
