"""README.md of a model version: a model card with the Hugging Face front matter.

The card travels with the model, so it names no place: of a data source only the last part of its
path, no bucket, no folder of the machine, no credentials.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from langalign.report import method_label

__all__ = ["model_card", "public_name"]

Row = Mapping[str, Any]

_WHAT = (
    "A text classifier for the target language, trained on labels of source-language text: a "
    "multilingual encoder, an aligner between the sentence embeddings of the two languages, and a "
    "task head (LangAlign, arXiv 2503.18603)."
)
_MAPPED = {
    "forward": "While the head was trained, source embeddings were mapped to the target language.",
    "reverse": "The head was trained on source embeddings that pass no aligner; target-language "
    "input is mapped to the source language at inference (Rev-LangAlign).",
    "none": "Its embeddings are not mapped (LangAlign omitted).",
}
_MOVED = (
    "It learned from source embeddings moved by how translations differ from their originals "
    "(`head.residuals`)."
)
_SCALES = "`f1`, `macro_f1` and `accuracy` run from 0 to 1, cosines from -1 to 1."
_STEPS = {
    "tune": "Step 1, fine-tuning the encoder on the task",
    "align": "Step 2, fitting the aligner to parallel sentences with the encoder frozen",
    "head": "Step 3, training a new head on the labelled rows",
}
_CHOSEN = {
    "target": "The model was chosen on held-out translated rows: source-language rows in "
    "translation, with the label of the original. A translation that changes the meaning makes "
    "such a label wrong.",
    "source": "The model was chosen on held-out source-language rows, since its translated pairs "
    "have no labels. What is best on those need not be best on target-language text.",
}
_LIMITS = (
    "The test rows took no part in choosing the model.",
    "The scores hold for text like the test rows; score rows of your own before you rely on them.",
    "Check the licences of the encoder and of the data for your use: this card does not.",
)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def model_card(
    *,
    name: str,
    task: str,
    labels: Sequence[str],
    text_columns: Sequence[str],
    source_language: str,
    target_language: str,
    direction: Literal["forward", "reverse"],
    aligner: Mapping[str, Any],
    encoder: str,
    pooling: str,
    max_length: int,
    data: Mapping[str, Row],
    results: Sequence[Row],
    steps: Mapping[str, str],
    seed: int,
    versions: Mapping[str, str],
    chosen_on: Literal["target", "source"],
    adds_residuals: bool = False,
    limits: Sequence[str] = (),
) -> str:
    """The card as Markdown; its example calls `predict` with a text, or a tuple for a pair task.

    `aligner` is {kind, and what shapes it}; `data` maps a role to {rows, source, digest}, of which
    `source` is cut by `public_name`; `results` are rows of summary.json; `steps` maps tune, align
    and head to the digests of their outputs (a step that did not run is left out); `versions`
    maps a library to its version; `chosen_on` is the language of the held-out rows;
    `adds_residuals` is `head.residuals`; `limits` are sentences added to the standing ones.
    """
    is_mapped = aligner["kind"] != "none"
    mapped = _MAPPED[direction if is_mapped else "none"]
    if adds_residuals and is_mapped:
        mapped += f" {_MOVED}"
    facts = {
        "task": task,
        "labels": ", ".join(f"{i} {label}" for i, label in enumerate(labels)),
        "source and target language": f"{source_language}, {target_language}",
        "direction": direction,
        "aligner": _pairs(aligner),
        "encoder": encoder if _HUB_NAME.fullmatch(encoder) else public_name(encoder),
        "pooling": pooling,
        "longest input": f"{max_length} tokens",
    }
    sections = {
        f"# {name}": f"{_WHAT} {mapped}\n",
        "## What it is": _table(["", ""], facts.items()),
        "## Use": _usage(name, text_columns),
        "## Data": _data_table(data),
        "## Results": f"{_SCALES}\n\n{_score_table(results)}",
        "## How it was made": _list([*_made(steps), f"Seed {seed}; {_pairs(versions)}."]),
        "## Limits": _list([_CHOSEN[chosen_on], *_LIMITS, *limits]),
    }
    body = "\n".join(f"{title}\n\n{text}" for title, text in sections.items())
    return f"{_front_matter(task, source_language, target_language)}\n{body}"


def public_name(source: str) -> str:
    """What may be published of a data source: the last part of its path, without query or user.

    `hub:owner/name` is public and kept whole; of `SOURCE_FILE|TARGET_FILE` both last parts stay.
    """
    return " | ".join(_last_part(part.strip()) for part in source.split("|"))


def _last_part(source: str) -> str:
    if source.startswith("hub:"):
        return source.removeprefix("hub:")
    # Of an address without a path nothing is left to name but its host or bucket.
    path = urlsplit(source).path if "://" in source else source
    parts = [part for part in re.split(r"[\\/]", path) if part]
    return parts[-1] if parts else "(unnamed)"


def _front_matter(task: str, *languages: str) -> str:
    fields = {
        "language": list(languages),
        "license": "other",
        "library_name": "langalign",
        "pipeline_tag": "text-classification",
        "tags": ["langalign", "cross-lingual-transfer", task],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n"


def _usage(name: str, text_columns: Sequence[str]) -> str:
    quoted = ", ".join(f'"{column}"' for column in text_columns)
    example = quoted if len(text_columns) == 1 else f"({quoted})"
    lines = [
        "import langalign",
        "",
        f'model = langalign.load("storage/models/{name}")',
        f"model.predict([{example}])",
    ]
    return "\n".join(["```python", *lines, "```", ""])


def _data_table(data: Mapping[str, Row]) -> str:
    rows = [
        (role, facts["rows"], public_name(facts["source"]), facts["digest"][:12])
        for role, facts in data.items()
    ]
    return _table(["role", "rows", "source", "digest"], rows)


def _score_table(results: Sequence[Row]) -> str:
    keys = ("language", "split", "metric", "seed")
    rows = [
        (
            method_label(row["method"], row["aligner"]),
            *(row[key] for key in keys),
            f"{row['value']:.4f}",
        )
        for row in results
    ]
    return _table(["method", *keys, "value"], rows)


def _made(steps: Mapping[str, str]) -> Iterator[str]:
    for step, what in _STEPS.items():
        yield f"{what}: output `{steps[step][:12]}`." if step in steps else f"{what}: left out."


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _list(items: Iterable[str]) -> str:
    return "".join(f"- {_line(item)}\n" for item in items)


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_line(cell) for cell in line)} |\n" for line in lines)


def _line(value: object) -> str:
    """A value as one line in which `|` ends no table cell."""
    return " ".join(str(value).split()).replace("|", "\\|")
