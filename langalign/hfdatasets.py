"""Data sets of the `datasets` library: from the Hugging Face hub, or as it saved them in a folder.

In a module of its own, which is imported for such a data set only: to import the library takes
about half a second of every process.
"""

from collections.abc import Iterator
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it is built on

from langalign.arrowfiles import arrow_rows
from langalign.errors import DataError
from langalign.hub import ask_hub
from langalign.textfiles import CHUNK_ROWS, PickColumns, RawRows, cut

__all__ = ["load_hub", "load_saved", "read_dataset"]


def read_dataset(spec: str, dataset: Any, pick: PickColumns) -> Iterator[RawRows]:
    """The rows of a data set that was loaded; `spec` is its name in messages."""
    flat = dataset.flatten()  # a struct column {"translation": {"en", "ko"}} -> "translation.en"
    columns = pick(spec, flat.column_names)
    class_names = {
        name: flat.features[column].names
        for name, column in columns.items()
        if isinstance(flat.features[column], datasets.ClassLabel)
    }
    chosen = flat.select_columns(list(columns.values())).with_format("arrow")
    yield from arrow_rows(spec, columns, chosen.iter(CHUNK_ROWS), class_names)


def load_saved(folder: str, split: str) -> Any:
    """What `Dataset.save_to_disk` wrote into a folder; `split` may be empty (train).

    Raises:
        DataError: it has no such split.
    """
    saved = datasets.load_from_disk(folder)
    if not isinstance(saved, datasets.DatasetDict):
        return saved
    if (split or "train") not in saved:
        raise DataError(
            f"{folder}: no split {split or 'train'!r} (found: {', '.join(saved)}); "
            f"name one, as in {folder}@{next(iter(saved))}"
        )
    return saved[split or "train"]


def load_hub(name: str, config: str | None, split: str) -> Any:
    """A split of a hub data set, from its cache if it is there.

    Raises:
        DataError: there is none, or it cannot be reached.
    """
    shown = f"{name}:{config}@{split}" if config else f"{name}@{split}"
    ask_hub("data set", name, DataError)
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{shown!r} is no local path, and no hub data set that loads ({cut(reason, 300)}); "
            "check path, name, config and split, and the network or HF_HUB_OFFLINE"
        ) from error
