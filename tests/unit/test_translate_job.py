"""`jobs/translate.py` as its user meets it: pairs that other jobs read, costs, one clear line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, serving

from jobs import translate
from langalign.counterpart import Counterpart
from langalign.data import read_parallel
from langalign.storage import Storage
from langalign.tasks import build_task


class Main:
    """Calls `main` with a storage of its own."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, root: Path
    ) -> None:
        self.capsys, self.patch, self.root = capsys, patch, root

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        argv = ["translate.py", "--json", f"storage={self.root}", *arguments]
        self.patch.setattr(sys, "argv", argv)
        status = translate.main()
        return status, *self.capsys.readouterr()

    def summary(self, *arguments: str) -> dict[str, Any]:
        status, out, err = self(*arguments)
        assert status == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


@pytest.fixture
def main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Main:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Main(capsys, monkeypatch, tmp_path / "store")


def pairs(main: Main, task: str = "sentiment") -> list[dict[str, Any]]:
    path = main.root / "runs/translate/translate/pairs.parquet"
    rows = read_parallel(
        str(path), source_language="en", target_language="xc", task=build_task(task)
    )
    return [row for batch in rows for row in batch.to_pylist()]


def test_the_demos_reviews_become_labelled_pairs(main: Main) -> None:
    summary = main.summary("rows=60")
    found = pairs(main)
    assert summary["pairs"] == len(found) == 60
    assert all(row["target"] == Counterpart().translate(row["source"]) for row in found)
    assert {row["label"] for row in found} == {0, 1}
    assert (summary["calls"], summary["money"]) == (0, 0.0)


def test_an_api_translates_texts_of_pairs_and_is_paid_once(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"a {n},b {n},{n % 3}" for n in range(9)]
    (tmp_path / "nli.csv").write_text("\n".join(["premise,hypothesis,label", *lines]))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving() as chat:
        arguments = (
            f"data={tmp_path / 'nli.csv'}",
            "task.name=nli",
            "language=Counterpart",
            "translator.kind=api",
            f"translator.url={chat.url}",
            "translator.model=m",
            "translator.prompt_price=10",
            "translator.completion_price=30",
        )
        summary = main.summary(*arguments)
        assert summary["texts_asked"] == 18
        assert main.summary(*arguments)["texts_asked"] == 0
    assert summary["money"] == pytest.approx(
        18 * (10 * PROMPT_TOKENS + 30 * COMPLETION_TOKENS) / 1e6
    )
    assert "into Counterpart." in chat.requests[0]["messages"][0]["content"]
    found = pairs(main, "nli")
    assert len(found) == 9
    for row in found:
        assert row["target"] == Counterpart().translate(row["source"])
        assert row["target_pair"] == Counterpart().translate(row["source_pair"])
    storage = Storage(str(main.root))
    assert not any(b"sk-secret" in storage.read_bytes(item.key) for item in storage.list())


def test_rows_with_a_refused_text_are_left_out_and_counted(main: Main, tmp_path: Path) -> None:
    lines = [f"a {n},b {n},{n % 3}" for n in range(12)]
    (tmp_path / "nli.csv").write_text("\n".join(["premise,hypothesis,label", *lines]))
    with serving() as chat:
        chat.broken = {"b 4": 400}
        summary = main.summary(
            f"data={tmp_path / 'nli.csv'}",
            "task.name=nli",
            "translator.kind=api",
            f"translator.url={chat.url}",
            "translator.model=m",
        )
    assert (summary["refused"], summary["pairs"], summary["calls"]) == (1, 11, 24)
    assert "a 4" not in {row["source"] for row in pairs(main, "nli")}
    (refused,) = Storage(str(main.root)).read_json("runs/translate/translate/refused.json")
    assert refused["text"] == "b 4"
    assert "HTTP 400" in refused["reason"]


def test_a_key_with_a_line_end_inside_reaches_neither_terminal_nor_storage(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\rx")
    with serving() as chat:
        status, out, err = main(
            "rows=20", "translator.kind=api", "translator.model=m", f"translator.url={chat.url}"
        )
    assert status == 2
    assert "OPENAI_API_KEY" in err
    assert "sk-secret" not in out + err
    assert not chat.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("target_language=ko",), "the dictionary knows only the demo's language"),
        (("translator.kind=local", "target_language=ko"), "name yours with parallel"),
        (("translator.kind=api",), "needs translator.model"),
        (("translator.temperature=3",), "less than or equal to 2"),
        (("modle=x",), "unknown key 'modle'"),
    ],
)
def test_a_mistake_is_one_line(main: Main, arguments: tuple[str, ...], message: str) -> None:
    status, _, err = main("rows=20", *arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_service_that_refuses_fails_the_job(main: Main) -> None:
    with serving() as chat:
        chat.refusals = [(401, {})] * 20
        status, _, err = main(
            "rows=20", "translator.kind=api", "translator.model=m", f"translator.url={chat.url}"
        )
    assert status == 1
    assert "HTTP 401" in err
