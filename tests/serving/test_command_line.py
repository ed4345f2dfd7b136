"""What `python -m serve` does without starting anything: its help, its mistakes, its line."""

import socket
from typing import Any

import pytest
import ray
from cards import CARD

from langalign.storage import Storage
from serve.__main__ import _question, main
from serve.schemas import ModelCard
from serve.settings import Settings


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert {"host", "port", *Settings.model_fields} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["modle=x"], 2, "did you mean 'model'"),
        (["inputs=0"], 2, "inputs=0"),
        (["host=0.0.0.0"], 2, "auth=off"),
        (["model=none"], 1, "no model none"),
    ],
)
def test_mistakes_are_one_line(
    models: Storage,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    status: int,
    text: str,
) -> None:
    assert main([*arguments, f"storage={models.root}"]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line
    assert not ray.is_initialized()


def test_a_port_that_is_taken_is_said_before_anything_starts(
    models: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["model=one", f"storage={models.root}", f"port={port}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on host=127.0.0.1 port={port}" in line
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    ("cards", "asked"),
    [
        ([{}], {"language": "xc", "inputs": ["a sentence"]}),
        ([{}, {"name": "n"}], {"model": "m", "language": "xc", "inputs": ["a sentence"]}),
        (
            [{"inputs": "pair"}],
            {"language": "xc", "inputs": [{"premise": "a sentence", "hypothesis": "another one"}]},
        ),
    ],
)
def test_the_line_asks_what_the_model_can_answer(
    cards: list[dict[str, Any]], asked: dict[str, Any]
) -> None:
    assert _question([ModelCard(**CARD | card) for card in cards]) == asked
