"""The web page in a real browser: phone and desktop, light and dark, by keyboard alone."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from browser import Page, browser_page, chromium
from local_service import parts_of

from cluster.ports import free_ports
from langalign.storage import Storage
from serve.api import create_api

BROWSER = chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
]
LINES = ["a good film", "<img src=x onerror=document.title='attacked'>", "", "well made"]
STATUS = "document.getElementById('status')"
TAB, ENTER, SPACE = ("Tab", 9, ""), ("Enter", 13, "\r"), (" ", 32, " ")


@pytest.fixture(scope="module")
def url(models: Storage) -> Iterator[str]:
    parts = parts_of(models, ["one", "two", "pairs"])
    api = create_api(parts.service, parts.settings.limits(), None)
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


async def upload(page: Page, path: Path) -> None:
    """Choose a file."""
    document = await page.call("DOM.getDocument")
    node = await page.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await page.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])


async def focus(page: Page, wanted: str) -> None:
    """Go to an element with the Tab key alone."""
    for _ in range(12):
        await page.press(*TAB)
        if await page.value("document.activeElement.id") == wanted:
            return
    raise AssertionError(f"the Tab key never reaches {wanted}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_sentences_are_classified_by_keyboard(
    url: str, tmp_path: Path, width: int, scheme: str
) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=width, scheme=scheme)
            await page.wait_for("document.getElementById('model')?.options.length == 3")
            await focus(page, "texts")
            await page.type("\n".join(LINES))
            await focus(page, "compare")
            await page.press(*SPACE)
            await focus(page, "send")
            await page.press(*ENTER)
            await page.wait_for("document.querySelectorAll('#list > li').length == 3")
            shown = "[...document.querySelectorAll('#list > li > div:first-child')]"
            found = await page.value(f"{shown}.map(e => e.textContent)")
            assert found == [line for line in LINES if line]
            bars = await page.value("document.querySelectorAll('#list progress').length")
            assert bars == 18
            assert await page.value("document.title") == "LangAlign"
            assert await page.value("document.documentElement.scrollWidth") <= width
            back = await page.value("getComputedStyle(document.body).backgroundColor")
            assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[scheme]
            await page.screenshot(tmp_path / f"{scheme}-{width}.png")
            assert page.errors == []
            assert all(asked.startswith((url, "data:")) for asked in page.requested)

    asyncio.run(scenario())


def test_csv_files_and_pairs(url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=1200, scheme="light")
            await page.wait_for("document.getElementById('model')?.options.length == 3")
            path = tmp_path / "rows.csv"
            path.write_text('id,text\n1,"one, with ""quotes"""\n2,"two\nlines"\n')
            await upload(page, path)
            text = await page.wait_for("document.getElementById('texts').value")
            assert text == 'one, with "quotes"\ntwo lines'
            choose = "const m = document.getElementById('model'); m.value = 'pairs';"
            await page.value(f"{{ {choose} m.dispatchEvent(new Event('change')); }}")
            await page.value("document.getElementById('texts').value = 'a film | a good film'")
            await page.value("document.getElementById('ask').requestSubmit()")
            await page.wait_for("document.querySelectorAll('#list > li').length == 1")
            # Another name each time: choosing the same file again is no change to a browser.
            path = tmp_path / "pairs.csv"
            path.write_text('premise,hypothesis\n"good | bad","a film"\n')
            await upload(page, path)
            text = "good | bad\\ta film"
            await page.wait_for(f"document.getElementById('texts').value == '{text}'")
            await page.value("document.getElementById('ask').requestSubmit()")
            shown = "document.querySelector('#list > li > div')?.textContent"
            await page.wait_for(f"{shown} == 'good | bad | a film'")
            for wrong in ("no bar", "a | b | c", "a\\tb\\tc"):
                await page.value(f"document.getElementById('texts').value = '{wrong}'")
                await page.value("document.getElementById('status').textContent = ''")
                await page.value("document.getElementById('ask').requestSubmit()")
                await page.wait_for(f"{STATUS}.textContent.startsWith('line 1: put one tab')")
                assert await page.value(f"{STATUS}.className") == "bad"
            path = tmp_path / "empty.csv"
            path.write_text("")
            await upload(page, path)
            await page.wait_for(f"{STATUS}.textContent == 'empty.csv holds no rows'")
            assert page.errors == []

    asyncio.run(scenario())


def test_the_api_page_lists_every_path(url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(f"{url}/docs", width=360, scheme="light")
            await page.wait_for("document.querySelectorAll('#schemas section').length > 5")
            heads = await page.value("[...document.querySelectorAll('h2')].map(e => e.textContent)")
            assert "POST /v1/classify" in heads
            assert await page.value("document.documentElement.scrollWidth") <= 360
            assert page.errors == []

    asyncio.run(scenario())
