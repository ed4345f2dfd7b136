"""What an encoder is pre-trained on: texts of one language, and a dictionary of word pairs."""

from itertools import islice
from pathlib import Path

from langalign import counterpart
from langalign.errors import DataError
from langalign.pretrainconfig import PretrainConfig
from langalign.rowchecks import Field, RowCounts, RowSchema, checked_rows
from langalign.textfiles import cut, read_lines

__all__ = ["read_corpus", "read_dictionary", "read_texts"]

DEMO_TEXTS = 20_000


def read_corpus(
    config: PretrainConfig,
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Texts of the source and of the target language, and the dictionary, empty without one.

    Raises:
        DataError: one of them cannot be read.
    """
    if config.source == "demo":
        count = config.texts or DEMO_TEXTS
        source = counterpart.unpaired_texts(count, config.seed, counterpart.ENGLISH)
        target = counterpart.unpaired_texts(count, config.seed, counterpart.COUNTERPART)
        own = counterpart.dictionary(source)
    else:
        source = read_texts(config.source, config.column, config.texts)
        target = read_texts(config.target, config.column, config.texts)
        own = []
    return source, target, read_dictionary(config.dictionary) if config.dictionary else own


def read_texts(spec: str, column: str, limit: int | None) -> list[str]:
    """All texts, or the first `limit`: lines of a .txt file, else a column of a source of rows.

    Such a source is any of `langalign.readers`; of its repeats one stays.

    Raises:
        DataError: it cannot be read, or has no such column.
    """
    if spec.endswith((".txt", ".txt.gz")):
        return [text for _, text in islice(read_lines(spec, Path(spec)), limit)]
    schema = RowSchema((Field(column, (column,)),), None, None, "name the column of the texts")
    rows = checked_rows(spec, schema, RowCounts(), limit=limit, sample_seed=None)
    return [row.texts[0] for row in rows]


def read_dictionary(file: str) -> list[tuple[str, str]]:
    """(source word, target word) of every line of a tab-separated file without a header.

    Raises:
        DataError: it cannot be read, or a line is no two words.
    """
    pairs = []
    for number, line in read_lines(file, Path(file)):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) != 2 or not all(cells):
            raise DataError(
                f"{file} row {number}: {cut(line)!r} is no pair of words; give a source word, a "
                f"tab and a target word on each line, without a header"
            )
        pairs.append((cells[0], cells[1]))
    return pairs
