"""Puts the reports of benchmarks into docs/results.md, each between its own two marks.

    python benchmarks/write_results.py STORAGE benchmark-demo benchmark-mini

STORAGE is what the benchmarks were run with; `make results` runs them with one, and then this.
Figures, and the links of every number to its manifest, stay there with the manifests. A run is
named as its preset in jobs/configs/.
"""

import argparse
import re
from pathlib import Path

from langalign.benchmarkindex import INDEX_TITLES
from langalign.storage import Storage

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
HEADING = "## The paper's experiments"


def main() -> None:
    """Read each report and replace what stands in the document, or add it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("storage")
    parser.add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    storage = Storage(arguments.storage)
    text = RESULTS.read_text(encoding="utf-8")
    for run in arguments.runs:
        report = storage.read_bytes(f"runs/{run}/benchmark/report.md").decode()
        text = placed(text, run, with_origin(run, shortened(report)))
    RESULTS.write_text(text, encoding="utf-8")


def shortened(report: str) -> str:
    """The report without figures, indices, links and folders; its headings two levels down."""
    sections = re.split(r"\n(?=## )", report)
    kept = [s for s in sections if not s.startswith(tuple(f"## {name}\n" for name in INDEX_TITLES))]
    text = "\n".join(kept)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", text)
    text = re.sub(r"\[([^\]]*)\]\((?:cells/|#|config\.yaml|versions\.json)[^)]*\)", r"\1", text)
    # Of a folder of the machine that ran it only the last name is of use here.
    text = re.sub(r"(?<![\w.:/])/(?:[\w.-]+/)+([\w.-]+)", r"\1", text)
    return re.sub(r"^(#+) ", r"##\1 ", text, flags=re.MULTILINE).strip()


def with_origin(run: str, report: str) -> str:
    """The report with a line on where the whole one comes from, below its heading.

    Raises:
        ValueError: it does not say with which command it was made.
    """
    command = re.search(r"^\| command \| (.+) \|$", report, flags=re.MULTILINE)
    if command is None:
        raise ValueError(f"the report of {run} names no command; make it again")
    heading, _, rest = report.partition("\n")
    return (
        f"{heading}\n\nMade by `{command[1]}`, whose whole report, with figures and a link from "
        f"every number to the manifests of its cells, is `runs/{run}/benchmark/report.html` in the "
        f"storage of that run.\n{rest}"
    )


def placed(text: str, run: str, report: str) -> str:
    """The document with the report between the marks of its run, new ones under `HEADING`.

    Raises:
        ValueError: one of the marks is missing.
    """
    begin, end = f"<!-- {run} -->", f"<!-- end of {run} -->"
    block = f"{begin}\n{report}\n{end}"
    if begin in text:
        head, _, rest = text.partition(begin)
        if end not in rest:
            raise ValueError(f"there is no {end} after {begin}; put it where the report ends")
        return head + block + rest.partition(end)[2]
    if f"\n{HEADING}\n" not in text:
        return f"{text.rstrip()}\n\n{HEADING}\n\n{block}\n"
    head, _, rest = text.partition(f"\n{HEADING}\n")
    section, following, others = rest.partition("\n## ")
    section = f"{section.rstrip()}\n\n{block}\n"
    return f"{head}\n{HEADING}\n{section}{following}{others}"


if __name__ == "__main__":
    main()
