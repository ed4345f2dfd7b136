"""Every number of a benchmark's report leads to the manifests of the cells behind it."""

import re
from pathlib import Path

from benchmark_results import CONFIG, results

from langalign.benchmarkcells import ResultSet
from langalign.benchmarkreport import benchmark_tables, write_benchmark_report
from langalign.benchmarkresult import CellStore
from langalign.storage import Storage

NUMBER = r"[+-]?\d"


def test_every_number_of_a_table_leads_to_manifests(tmp_path: Path) -> None:
    """In both formats: by a line that lists cells, if there are several, to each seed's file."""
    store = CellStore(Storage(str(tmp_path)), "x")
    found = results()
    write_benchmark_report(store, CONFIG, found, {})
    page = store.storage.read_bytes("x/report.html").decode()
    text = store.storage.read_bytes("x/report.md").decode()
    whole = benchmark_tables(CONFIG, ResultSet.of(found))
    numbers = [e.text for t in whole for row in t.rows for e in row if re.match(NUMBER, e.text)]
    titles = {table.title.split(",")[0].split(":")[0] for table in whole}
    assert {"Which of the paper's findings hold", "Alignment and transfer", "Cost"} <= titles
    assert {"Table 9", "Alignment", "Cheapest way to a wanted score"} <= titles

    fields = re.findall(r'<td class="number">(.*?)</td>', page)
    assert len(fields) == len(numbers)
    anchors = [re.match(r'<a href="#([^"]+)">', each) for each in fields]
    assert all(anchors)
    # Sizes in the header are no figures.
    body = re.sub(r"^\|.*\n\| ---", "", text, flags=re.MULTILINE)
    rows = [line.strip("|").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    marked = [each.strip() for row in rows for each in row]
    links = [re.match(rf"\[(?:\*\*|<u>)*({NUMBER}[^]]*)\]\(#([^)]+)\)$", each) for each in marked]
    assert len([each for each in links if each]) == len(numbers)
    assert not [each for each in marked if re.match(NUMBER, each)]
    in_markdown = {each[2] for each in links if each}
    assert in_markdown == {each[1] for each in anchors if each}
    for anchor in in_markdown:
        assert files_behind(page, f'<span id="{anchor}">', 'href="([^"]+)"', "</tr>") == (
            files_behind(text, f'<a id="{anchor}"></a>', r"\]\(([^)]+)\)", "\n")
        )


def files_behind(report: str, place: str, link: str, end: str) -> set[str]:
    """The manifests that a line of an index leads to, straight or by another line."""
    assert report.count(place) == 1, place
    line = report.partition(place)[2].partition(end)[0]
    found: set[str] = set()
    for address in re.findall(link, line):
        if address.startswith("#"):
            found |= files_behind(
                report, place.replace(place.split('"')[1], address[1:]), link, end
            )
        else:
            found.add(address)
    assert found, "a place that leads nowhere"
    return found
