"""The web page in a real browser: phone and desktop, light and dark, by keyboard alone.

Screenshots stay in pytest's folder, which `--basetemp=FOLDER` names.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browser import Page, browser_page, chromium
from local_service import parts_of

from cluster.ports import free_ports
from langalign.storage import Storage
from serve.api import create_api
from serve.keys import KeyFile, new_key

BROWSER = chromium()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
]
LINES = ["a good film", "<img src=x onerror=document.title='attacked'>", "", "well made"]
STATUS = "document.getElementById('status')"
# Content of a file (UTF-8 where it is text), and the lines that it stands for; none: it is refused.
FILES: dict[str, tuple[str | bytes, list[str]]] = {
    "plain.txt": (
        'Good film, well made\n\n5" of "rain\n',
        ["Good film, well made", '5" of "rain'],
    ),
    "sizes.csv": ('text\n5" of rain\nfine\n', ['5" of rain', "fine"]),
    "one.csv": ("good\nbad\n", ["good", "bad"]),
    "empty.csv": ("", []),
    "empty.txt": ("\n", []),
    "commas.csv": ("Good film, well made\n", []),
    "inside.csv": ("id,text\n1,Good film, well made\n", []),
    "other.csv": ("id,review\n1,good\n", []),
    "open.csv": ('text\n"never closed\nfine\n', []),
    "korean.csv": ("text\n정말 좋았다\n".encode("cp949"), []),
    "marked.csv": ("\ufefftext\n정말 좋았다\n", ["정말 좋았다"]),
    "european.csv": ("id;text\n1;gut\n", []),
    "tabs.csv": ("id\ttext\n1\tgood\n", []),
    "named.csv": ("text\ngood; dull\n", ["good; dull"]),
    "old.csv": ("text\rgood\rdull\r", ["good", "dull"]),
    "old.txt": ("good\rdull\r\nfine", ["good", "dull", "fine"]),
    "gaps.csv": ("id,text\n1,\n2,good\n", ["good"]),
    "hollow.csv": ("id,text\n1,\n2,\n", []),
}
DOWN, UP = ("ArrowDown", 40, ""), ("ArrowUp", 38, "")
TAB, ENTER, SPACE = ("Tab", 9, ""), ("Enter", 13, "\r"), (" ", 32, " ")


@contextmanager
def served(models: Storage, keys: KeyFile | None = None, **settings: Any) -> Iterator[str]:
    """The address of the application without Ray."""
    parts = parts_of(models, ["one", "two", "pairs"], **settings)
    api = create_api(parts.service, parts.settings.limits(), keys)
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(api, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def url(models: Storage) -> Iterator[str]:
    with served(models) as address:
        yield address


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
            await focus(page, "model")
            first = await page.value("document.getElementById('card-name').textContent")
            await page.press(*DOWN)
            await page.wait_for(f"document.getElementById('card-name').textContent != '{first}'")
            await page.press(*UP)
            await page.wait_for(f"document.getElementById('card-name').textContent == '{first}'")
            cells = "[...document.querySelectorAll('#metrics tbody td')].map(e => e.textContent)"
            scores = ["langalign", "linear", "xc", "test", "accuracy", "0.877"]
            assert await page.value(cells) == scores
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
            assert await page.value("document.activeElement.id") == "send"
            bars = await page.value("document.querySelectorAll('#list progress').length")
            assert bars == 18
            assert await page.value("document.title") == "LangAlign"
            assert await page.value("document.documentElement.scrollWidth") <= width
            assert await page.value("document.getElementById('texts').lang") == "xc"
            assert set(await page.value(f"{shown}.map(e => e.lang)")) == {"xc"}
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
            assert page.errors == []

    asyncio.run(scenario())


def test_lines_go_in_requests_within_the_limit_and_a_lost_service_is_said(
    models: Storage, tmp_path: Path
) -> None:
    send = "document.getElementById('ask').requestSubmit()"

    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            with served(models, inputs=2) as url:
                await page.open(url, width=360, scheme="light")
                await page.wait_for("document.getElementById('model')?.options.length == 3")
                await page.value("document.getElementById('texts').value = 'a\\nb\\nc'")
                await page.value(send)
                await page.wait_for("document.querySelectorAll('#list > li').length == 3")
            await page.value(send)
            await page.wait_for(f"{STATUS}.textContent.includes('cannot be reached')")

    asyncio.run(scenario())


def test_a_file_is_chosen_by_keyboard(url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=360, scheme="light")
            await page.call("Page.setInterceptFileChooserDialog", enabled=True)
            await page.wait_for("document.getElementById('model')?.options.length == 3")
            path = tmp_path / "rows.csv"
            path.write_text("id,text\n1,a good film\n2,dull\n")
            await focus(page, "file")
            await page.press(*SPACE)
            await page.answer_dialog(path)
            text = await page.wait_for("document.getElementById('texts').value")
            assert text == "a good film\ndull"
            assert page.errors == []

    asyncio.run(scenario())


def test_files_are_read_whole_or_refused(url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=1200, scheme="light")
            await page.wait_for("document.getElementById('model')?.options.length == 3")
            for name, (content, lines) in FILES.items():
                await page.value("document.getElementById('texts').value = ''")
                path = tmp_path / name
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
                await upload(page, path)
                await page.wait_for(f"{STATUS}.textContent.includes('{name}')")
                shown = await page.value("document.getElementById('texts').value")
                found = (shown, await page.value(f"{STATUS}.className"))
                assert found == ("\n".join(lines), "" if lines else "bad"), name
            path = tmp_path / "mended.csv"
            path.write_text("text\n\ngood, dull\n")
            await upload(page, path)
            await page.wait_for(f"{STATUS}.textContent.includes('columns of row 3')")
            path.write_text('text\n\n"good, dull"\n')
            await upload(page, path)
            await page.wait_for("document.getElementById('texts').value == 'good, dull'")
            assert await page.value(f"{STATUS}.textContent.startsWith('1 rows of mended.csv')")
            assert page.errors == []

    asyncio.run(scenario())


def test_a_page_opened_before_the_service_is_ready_needs_no_reload(
    url: str, tmp_path: Path
) -> None:
    async def scenario() -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=1200, scheme="light")
            await page.wait_for("document.getElementById('model')?.options.length == 3")
            # As they are then.
            for name in ("model", "language"):
                await page.value(f"document.getElementById('{name}').replaceChildren()")
            await page.value("document.getElementById('texts').value = 'a good film'")
            await page.value("document.getElementById('send').click()")
            await page.wait_for("document.getElementById('model').options.length == 3")
            await page.wait_for(f"{STATUS}.textContent == 'models: 3'")
            await page.wait_for("document.getElementById('send').ariaDisabled == 'false'")
            await page.value("document.getElementById('send').click()")
            await page.wait_for("document.querySelectorAll('#list > li').length == 1")
            assert page.errors == []

    asyncio.run(scenario())


def test_a_key_is_asked_for_and_used(models: Storage, tmp_path: Path) -> None:
    async def scenario(url: str, key: str) -> None:
        assert BROWSER is not None
        async with browser_page(BROWSER, tmp_path / "profile") as page:
            await page.open(url, width=360, scheme="light")
            await page.wait_for(f"{STATUS}.textContent.includes('into the field above')")
            assert await page.value(f"{STATUS}.className") == "bad"
            await page.screenshot(tmp_path / "key.png")
            await focus(page, "key")
            await page.type("la_wrong")
            await page.press(*ENTER)
            await page.wait_for(f"{STATUS}.textContent.includes('type another one')")
            await page.value("document.getElementById('key').select()")
            await page.type(key)
            await page.press(*ENTER)
            await page.wait_for(f"{STATUS}.textContent == 'models: 3'")
            # The key is taken once more while another model is chosen, which stays so.
            choose = "const m = document.getElementById('model'); m.value = 'two';"
            await page.value(f"{{ {choose} m.dispatchEvent(new Event('change')); }}")
            await page.value(f"{STATUS}.textContent = ''")
            await page.value("document.getElementById('key-form').requestSubmit()")
            await page.wait_for(f"{STATUS}.textContent == 'models: 3'")
            assert await page.value("document.getElementById('model').value") == "two"
            await focus(page, "texts")
            await page.type("a good film")
            await focus(page, "send")
            await page.press(*ENTER)
            await page.wait_for("document.querySelectorAll('#list > li').length == 1")
            # The browser reports the two refusals, and nothing else.
            assert ["401" in error for error in page.errors] == [True, True]

    key = new_key(tmp_path / "keys.json", "alice")
    with served(models, KeyFile(tmp_path / "keys.json")) as url:
        asyncio.run(scenario(url, key))


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
