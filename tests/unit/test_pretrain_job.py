"""`jobs/pretrain.py`: texts in files to an encoder, with and without the dictionary's loss."""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs import pretrain
from langalign import counterpart
from langalign.corpus import read_dictionary, read_texts
from langalign.encoder import SentenceEncoder
from langalign.errors import DataError

SMALL = (
    "mlm_steps=20",
    "contrastive_steps=4",
    "batch_size=16",
    "vocab_size=2000",
    "hidden_size=32",
    "layers=1",
    "heads=2",
)
ENGLISH = counterpart.unpaired_texts(200, 0, "en")
OTHER = counterpart.unpaired_texts(200, 0, "xc")


class Main:
    """Calls `main` in a folder with the texts of both languages and a dictionary."""

    def __init__(self, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.capsys, self.patch = capsys, patch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self.patch.setattr(sys, "argv", ["pretrain.py", "--json", *arguments])
        status = pretrain.main()
        return status, *self.capsys.readouterr()

    def summary(self, *arguments: str) -> dict[str, Any]:
        status, out, err = self(*arguments, *SMALL)
        assert status == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found


@pytest.fixture
def main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Main:
    monkeypatch.chdir(tmp_path)
    Path("en.txt").write_text("\n\n".join(ENGLISH))
    Path("xc.csv").write_text("review\n" + "".join(f'"{text}"\n' for text in OTHER))
    words = counterpart.dictionary(ENGLISH)
    Path("words.tsv").write_text("".join(f"{word}\t{other}\n" for word, other in words))
    return Main(capsys, monkeypatch)


def test_the_auxiliary_loss_aligns_the_words_of_a_users_own_dictionary(main: Main) -> None:
    own = ("source=en.txt", "target=xc.csv", "column=review", "dictionary=words.tsv")
    plain = main.summary(*own, "out=plain")
    aligned = main.summary(*own, "out=aligned", "align_weight=10")
    assert aligned["texts"] == [len(ENGLISH), len(set(OTHER))]
    assert plain["words"]["cosine"] < 0.4
    assert aligned["words"]["cosine"] > 0.6
    assert aligned["history"][-1]["step"] == 24
    encoder = SentenceEncoder.load("aligned", pooling="mean", max_length=32)
    assert encoder.width == 32


def test_the_demo_has_texts_and_words_of_its_own(main: Main) -> None:
    summary = main.summary("texts=150", "align_weight=10")
    assert summary["encoder"] == "encoder"
    assert summary["texts"] == [150, 150]
    assert summary["words"]["cosine"] > 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("source=en.txt",), "both of your own"),
        (("source=en.txt", "target=xc.csv", "align_weight=1"), "needs a dictionary"),
        (("hidden_size=30", "heads=4"), "multiple of 4"),
        (("out=en.txt",), "is there already"),
        (("stpes=1",), "unknown key 'stpes'"),
    ],
)
def test_a_mistake_is_one_line(main: Main, arguments: tuple[str, ...], message: str) -> None:
    status, _, err = main(*arguments)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_an_encoder_that_is_there_is_not_written_over(main: Main) -> None:
    Path("encoder").mkdir()
    (Path("encoder") / "model.safetensors").write_text("mine")
    assert main()[0] == 2
    assert (Path("encoder") / "model.safetensors").read_text() == "mine"


def test_texts_are_lines_or_a_column(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("one, and more\n \ntwo\r\nthree\n")
    found = read_texts(str(tmp_path / "a.txt.gz"), "text", None)
    assert found == ["one, and more", "two", "three"]
    assert read_texts(str(tmp_path / "a.txt.gz"), "text", 2) == found[:2]
    (tmp_path / "b.jsonl").write_text('{"body": "x y"}\n{"body": "z"}\n')
    assert read_texts(str(tmp_path / "b.jsonl"), "body", None) == ["x y", "z"]
    with pytest.raises(DataError, match="name the column of the texts"):
        read_texts(str(tmp_path / "b.jsonl"), "text", None)
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(str(tmp_path / "none.txt"), "text", None)


@pytest.mark.parametrize("line", ["one word", "a\tb\tc", "a\t "])
def test_a_line_that_is_no_pair_of_words_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "words.tsv").write_text(f"good\tgut\n{line}\n")
    with pytest.raises(DataError, match=r"words.tsv row 2: .* is no pair of words"):
        read_dictionary(str(tmp_path / "words.tsv"))
