"""Headless Chromium by its DevTools protocol, which needs no driver."""

import asyncio
import base64
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

START_LIMIT_S = 30.0


def chromium() -> str | None:
    """The browser of this machine, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab; keeps the addresses that it asked for and the errors that it met."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0
        self.requested: list[str] = []
        self.errors: list[str] = []
        self._dialog: int | None = None

    async def call(self, method: str, **params: Any) -> Any:
        """Call a DevTools method; returns its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = (await self._socket.receive(timeout=30)).json()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    async def open(self, url: str, *, width: int, scheme: str) -> None:
        """Open an address at a width, in the light or dark scheme."""
        for domain in ("Network", "Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme_wanted = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[scheme_wanted])
        await self.call("Page.navigate", url=url)

    async def value(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """The first true value of an expression."""
        for _ in range(200):
            if found := await self.value(script):
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.errors}")

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press and let go of a key."""
        shared = {"key": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    async def type(self, text: str) -> None:
        """Put text into what has the focus."""
        await self.call("Input.insertText", text=text)

    async def answer_dialog(self, path: Path) -> None:
        """Choose a file in the dialog that the page opens, as `Page.setInterceptFileChooserDialog`
        has it.
        """
        for _ in range(200):
            if self._dialog is not None:
                break
            await self.value("0")  # events come with answers
            await asyncio.sleep(0.05)
        assert self._dialog is not None, "no dialog was opened"
        await self.call("DOM.setFileInputFiles", files=[str(path)], backendNodeId=self._dialog)
        self._dialog = None

    async def screenshot(self, path: Path) -> None:
        """Keep the whole page as PNG."""
        taken = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _note(self, message: Any) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif method == "Page.fileChooserOpened":
            self._dialog = params["backendNodeId"]
        elif method == "Runtime.exceptionThrown":
            self.errors.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])


@asynccontextmanager
async def browser_page(browser: str, profile: Path) -> AsyncIterator[Page]:
    """A tab of a new browser, which ends with the block."""
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _debugging_port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = await answer.json()
            address = next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


async def _debugging_port(path: Path) -> int:
    for _ in range(int(START_LIMIT_S / 0.1)):
        if path.is_file() and (lines := path.read_text().splitlines()):
            return int(lines[0])
        await asyncio.sleep(0.1)
    raise AssertionError("the browser did not start")
