"""The model card: front matter a hub reads, tables that hold the facts, and nothing private."""

import re
from typing import Any

import pytest
import yaml

from langalign.card import model_card, public_name

DATA = {
    "train": {"rows": 6733, "source": "s3://acme-internal/teams/x/sst2.csv", "digest": "a1" * 32},
    "parallel": {
        "rows": 2000,
        "source": "/home/minji/corpus/a.en.txt|/home/minji/corpus/a.ko.txt",
        "digest": "b2" * 32,
    },
    "test": {"rows": 872, "source": "hub:owner/nsmc@test", "digest": "c3" * 32},
}
RESULT = {"method": "langalign", "aligner": "ae", "language": "ko", "split": "test", "seed": 7}


def card(**changes: Any) -> str:
    arguments: dict[str, Any] = {
        "name": "ko-sentiment",
        "task": "sentiment",
        "labels": ("negative", "positive"),
        "text_columns": ("text",),
        "source_language": "en",
        "target_language": "ko",
        "direction": "forward",
        "aligner": {"kind": "ae", "depth": 3, "hidden": 512},
        "encoder": "FacebookAI/xlm-roberta-base",
        "pooling": "cls",
        "max_length": 256,
        "data": DATA,
        "results": [{**RESULT, "metric": "f1", "value": 0.83124}],
        "steps": {"align": "0d" * 16, "head": "1e" * 16},
        "seed": 7,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "chosen_on": "target",
    }
    return model_card(**{**arguments, **changes})


def tables(text: str) -> dict[str, list[list[str]]]:
    """Section title to the body rows of its table, read as a Markdown reader would."""
    found: dict[str, list[list[str]]] = {}
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert len({len(row) for row in rows}) <= 1, "a row with a cell too many or too few"
        found[section.partition("\n")[0]] = rows[2:]
    return found


def test_the_front_matter_is_what_the_hub_reads() -> None:
    start, front, body = card(target_language="no").split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front) == {
        "language": ["en", "no"],  # Norwegian, not a boolean
        "license": "other",
        "library_name": "langalign",
        "pipeline_tag": "text-classification",
        "tags": ["langalign", "cross-lingual-transfer", "sentiment"],
    }
    assert body.startswith("\n# ko-sentiment\n")


def test_the_tables_hold_the_facts() -> None:
    found = tables(card())
    assert found["What it is"] == [
        ["task", "sentiment"],
        ["labels", "0 negative, 1 positive"],
        ["source and target language", "en, ko"],
        ["direction", "forward"],
        ["aligner", "kind ae, depth 3, hidden 512"],
        ["encoder", "FacebookAI/xlm-roberta-base"],
        ["pooling", "cls"],
        ["longest input", "256 tokens"],
    ]
    assert found["Data"] == [
        ["train", "6733", "sst2.csv", "a1a1a1a1a1a1"],
        ["parallel", "2000", "a.en.txt \\| a.ko.txt", "b2b2b2b2b2b2"],
        ["test", "872", "owner/nsmc@test", "c3c3c3c3c3c3"],
    ]
    assert found["Results"] == [["LangAlign ae", "ko", "test", "f1", "7", "0.8312"]]


def test_how_it_was_made_names_every_step_seed_and_library() -> None:
    made = card().split("\n## How it was made\n")[1].split("\n## ")[0]
    one, two, three, last = made.strip().splitlines()
    assert one.endswith("on the task: left out.")
    assert two.endswith("output `0d0d0d0d0d0d`.")
    assert three.endswith("output `1e1e1e1e1e1e`.")
    assert last == "- Seed 7; torch 2.13.0, transformers 5.23.0."


def test_the_caveats_stand_before_those_given() -> None:
    limits = card(limits=["Reviews of films\nonly."]).split("\n## Limits\n")[1]
    assert "chosen on held-out translated rows" in limits
    assert "test rows took no part in choosing" in limits
    assert "licences of the encoder and of the data" in limits
    assert limits.endswith("\n- Reviews of films only.\n")


def test_pairs_without_labels_are_said_to_choose_nothing() -> None:
    limits = card(chosen_on="source").split("\n## Limits\n")[1]
    assert "held-out source-language rows" in limits
    assert "translated rows" not in limits


@pytest.mark.parametrize(
    ("columns", "call"),
    [
        (("text",), 'model.predict(["text"])'),
        (("premise", "hypothesis"), 'model.predict([("premise", "hypothesis")])'),
    ],
)
def test_the_example_is_python_for_the_task(columns: tuple[str, ...], call: str) -> None:
    code = card(text_columns=columns).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert code.splitlines()[-2:] == ['model = langalign.load("storage/models/ko-sentiment")', call]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "source embeddings were mapped"),
        ({"direction": "reverse"}, "Rev-LangAlign"),
        ({"aligner": {"kind": "none"}}, "LangAlign omitted"),
    ],
)
def test_the_card_says_which_way_embeddings_are_mapped(changes: dict[str, Any], words: str) -> None:
    introduction = card(**changes).split("\n## ")[0]
    said = [w for w in ("were mapped", "Rev-LangAlign", "LangAlign omitted") if w in introduction]
    assert len(said) == 1
    assert words in introduction


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("s3://acme-internal/teams/x/rows.csv", "rows.csv"),
        ("s3://acme-internal", "(unnamed)"),
        ("s3://acme-internal/", "(unnamed)"),
        ("https://minji:s3cret@host.example/d/rows.csv?X-Amz-Signature=abc#x", "rows.csv"),
        ("/home/minji/corpus/", "corpus"),
        ("C:\\Users\\minji\\rows.csv", "rows.csv"),
        ("~minji/rows-*.parquet", "rows-*.parquet"),
        ("/home/minji/saved@validation", "saved@validation"),
        ("owner/name:config@split", "name:config@split"),
        ("hub:owner/name:config@split", "owner/name:config@split"),
        ("demo", "demo"),
        ("/", "(unnamed)"),
    ],
)
def test_of_a_source_only_the_last_part_is_public(source: str, shown: str) -> None:
    assert public_name(source) == shown
    data = {"train": {"rows": 1, "source": source, "digest": "a" * 64}}
    text = card(data=data, encoder=source if source.startswith(("s3:", "http", "/")) else "demo")
    assert not re.search(r"acme-internal|minji|s3cret|Signature|://", text)


def test_names_with_bars_and_line_breaks_break_no_table() -> None:
    found = tables(card(labels=("a|b", "c\nd")))
    assert found["What it is"][1] == ["labels", "0 a\\|b, 1 c d"]
