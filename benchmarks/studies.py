"""The data of `transfer.py`: which rows are English, pairs, test and native in each study."""

import argparse
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from transfer import Rows, Study

from langalign import counterpart
from langalign.pretraining import pretrain

STUDIES = ("sib200", "sib200-folded", "sentiment", "counterpart", "demo")
TOPICS = 7
ROWS = 3_000
PAIRS = 3_000
SENTIMENT_TESTS = {"ko": "nsmc_ko", "zh": "sentiment_zh"}


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of what names a study: its set, data, encoder and target language, and seeds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--encoder", help="transformers folder or hub name")
    parser.add_argument("--target", default="ko", help="target language code")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    return parser


def load_study(
    name: str, data: Path | None, target: str, encoder: str | None, seed: int
) -> tuple[Study, str]:
    """The study and the encoder it runs on; `counterpart` and `demo` make their own encoder."""
    if name == "demo":
        return _demo(seed), encoder or _pretrained(*_demo_texts())
    if data is None:
        raise SystemExit(f"{name} needs --data, a folder of data sets")
    if name == "counterpart":
        return _counterpart(data, seed), encoder or _pretrained(*_counterpart_texts(data))
    if encoder is None:
        raise SystemExit(f"{name} needs --encoder, a transformers folder or hub name")
    if name == "sentiment":
        return _sentiment(data, target, seed), encoder
    return _sib200(data, target, seed, is_folded=name.endswith("folded")), encoder


def _rows(path: Path) -> Rows:
    table = pq.read_table(path)
    return Rows(table["text"].to_pylist(), table["label"].to_pylist())


def _sample(rows: int, size: int, seed: int) -> list[int]:
    chosen = np.random.default_rng(seed).permutation(rows)[:size]
    return sorted(int(i) for i in chosen)


def _sib200(data: Path, target: str, seed: int, *, is_folded: bool) -> Study:
    """Topics; half of the training rows, in both languages, are the in-domain pairs.

    Folded: training and validation rows pooled and cut anew by seed, because 99 test rows are few.
    """
    sets = {}
    for language in ("en", target):
        parts = [
            _rows(data / f"sib200_{language}" / f"{p}.parquet") for p in ("train", "validation")
        ]
        sets[language] = Rows(parts[0].texts + parts[1].texts, parts[0].labels + parts[1].labels)
    ids = list(range(len(sets["en"].texts)))
    train, test = ids[:701], ids[701:]
    if is_folded:
        order = [int(i) for i in np.random.default_rng(seed).permutation(len(ids))]
        train, test = order[240:], order[:240]
    pairs = train[: len(train) // 2]
    return Study(
        name=f"SIB-200 en→{target}" + (" folded" if is_folded else ""),
        classes=TOPICS,
        metric="accuracy",
        english=sets["en"].take(train),
        source=sets["en"].take(pairs).texts,
        target=sets[target].take(pairs).texts,
        pair_labels=sets["en"].take(pairs).labels,
        test=sets[target].take(test),
        native=sets[target].take(train),
    )


def _sentiment(data: Path, target: str, seed: int) -> Study:
    """SST-2 into reviews of another domain, with general-domain pairs the encoder saw unpaired."""
    english = _rows(data / "sst2_en" / "train.parquet")
    native = _rows(data / SENTIMENT_TESTS[target] / "train.parquet")
    pairs = pq.read_table(data / f"parallel_en_{target}" / "train.parquet")
    sources, targets = pairs["source"].to_pylist(), pairs["target"].to_pylist()
    unseen = [i for i, text in enumerate(sources) if half_of(text) == 1]
    chosen = [unseen[i] for i in _sample(len(unseen), PAIRS, seed)]
    return Study(
        name=f"SST-2 en→{target}",
        classes=2,
        metric="f1",
        english=english.take(_sample(len(english.texts), ROWS, seed)),
        source=[sources[i] for i in chosen],
        target=[targets[i] for i in chosen],
        pair_labels=None,
        test=_rows(data / SENTIMENT_TESTS[target] / "validation.parquet"),
        native=native.take(_sample(len(native.texts), ROWS, seed)),
    )


def half_of(text: str) -> int:
    """Pairs whose half is 0 were seen as pairs in the mini encoder's pre-training."""
    return int(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(), 16) % 2


def _counterpart(data: Path, seed: int) -> Study:
    """SST-2 into its counterpart language: real English, exact in-domain translation."""
    english = _rows(data / "sst2_en" / "train.parquet")
    test = _rows(data / "sst2_en" / "validation.parquet")
    translate = counterpart.Counterpart().translate
    chosen = _sample(len(english.texts), 2 * ROWS + PAIRS, seed)
    order = [int(i) for i in np.random.default_rng(seed).permutation(chosen)]
    train, pairs, native = order[:ROWS], order[ROWS : ROWS + PAIRS], order[ROWS + PAIRS :]
    pair_rows, native_rows = english.take(pairs), english.take(native)
    return Study(
        name="SST-2 en→counterpart",
        classes=2,
        metric="accuracy",
        english=english.take(train),
        source=pair_rows.texts,
        target=[translate(text) for text in pair_rows.texts],
        pair_labels=pair_rows.labels,
        test=Rows([translate(text) for text in test.texts], test.labels),
        native=Rows([translate(text) for text in native_rows.texts], native_rows.labels),
    )


def _counterpart_texts(data: Path) -> tuple[list[str], list[str]]:
    """Unpaired text: the first half of SST-2's longer lines in English, the other translated."""
    texts = [t for t in _rows(data / "sst2_en" / "train.parquet").texts if len(t.split()) >= 6]
    translate = counterpart.Counterpart().translate
    middle = len(texts) // 2
    return texts[:middle], [translate(text) for text in texts[middle:]]


def _demo(seed: int) -> Study:
    english = counterpart.labelled_table(10_000, seed, "en")
    pairs = counterpart.parallel_table(2_000, seed)
    test = counterpart.labelled_table(2_000, seed, "xc", split="test")
    native = counterpart.labelled_table(10_000, seed, "xc", split="native")
    return Study(
        name="demo",
        classes=2,
        metric="accuracy",
        english=Rows(english["text"].to_pylist(), english["label"].to_pylist()),
        source=pairs["source"].to_pylist(),
        target=pairs["target"].to_pylist(),
        pair_labels=pairs["label"].to_pylist(),
        test=Rows(test["text"].to_pylist(), test["label"].to_pylist()),
        native=Rows(native["text"].to_pylist(), native["label"].to_pylist()),
    )


def _demo_texts() -> tuple[list[str], list[str]]:
    english = counterpart.unpaired_texts(20_000, 0, "en")
    return english, counterpart.unpaired_texts(20_000, 0, "xc")


def _pretrained(english: list[str], other: list[str]) -> str:
    folder = Path(tempfile.gettempdir()) / f"langalign-encoder-{len(english)}"
    if not (folder / "model.safetensors").is_file():
        pretrain(english, other, folder)
    return str(folder)
