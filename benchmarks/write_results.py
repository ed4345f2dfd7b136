"""Puts the reports of benchmarks into docs/results.md, each between its own two marks.

    python benchmarks/write_results.py STORAGE benchmark-demo benchmark-mini

STORAGE is what the benchmarks were run with. Figures and the index of cells, whose links lead to
manifests beside the report, stay there.
"""

import argparse
import re
from pathlib import Path

from langalign.storage import Storage

RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
HEADING = "## The paper's experiments"
LEFT_OUT = ("All cells",)


def main() -> None:
    """Read each report and replace what stands in the document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("storage")
    parser.add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    storage = Storage(arguments.storage)
    text = RESULTS.read_text(encoding="utf-8")
    for run in arguments.runs:
        report = storage.read_bytes(f"runs/{run}/benchmark/report.md").decode()
        text = placed(text, run, shortened(report))
    RESULTS.write_text(text, encoding="utf-8")


def shortened(report: str) -> str:
    """The report without figures, index and links, its headings two levels down."""
    sections = re.split(r"\n(?=## )", report)
    kept = [s for s in sections if not s.startswith(tuple(f"## {name}" for name in LEFT_OUT))]
    text = "\n".join(kept)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)\n*", "", text)
    text = re.sub(r"\[([^\]]*)\]\(cells/[^)]*\)", r"\1", text)
    return re.sub(r"^(#+) ", r"##\1 ", text, flags=re.MULTILINE).strip()


def placed(text: str, run: str, report: str) -> str:
    """The document with the report between the marks of its run; new marks go to the end."""
    begin, end = f"<!-- {run} -->", f"<!-- end of {run} -->"
    block = f"{begin}\n{report}\n{end}"
    if begin in text:
        head, _, rest = text.partition(begin)
        return head + block + rest.partition(end)[2]
    heading = "" if HEADING in text else f"{HEADING}\n\n"
    return f"{text.rstrip()}\n\n{heading}{block}\n"


if __name__ == "__main__":
    main()
