"""A real browser for tests: headless Chromium, driven over a pair of pipes (the DevTools protocol).

    async with Browser(tmp_path) as browser:
        await browser.open(f"{service.url}/docs")
        title = await browser.run("document.title")

Pipes need no port, no WebSocket and no driver of another project: messages are JSON, a NUL after each.
"""

import asyncio
import base64
import itertools
import json
import os
import shutil
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ANSWER_TIMEOUT_SECONDS = 60.0  # the first start on a busy machine is slow
MESSAGE_MAX_BYTES = 16 * 1_048_576
POLL_SECONDS = 0.02

# Chromium reads from descriptor 3 and writes to 4. dash supports only single-digit descriptors.
_WITH_PIPES = """
import fcntl, os, sys
reads, writes = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A browser with one page.

    Args:
        folder: its profile and home, so that the user's files are not touched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ids = itertools.count(1)
        self._session = ""
        self.complaints: list[str] = []  # what the pages logged: errors, and violations of their policy
        self._process: Process
        self._reader: asyncio.StreamReader
        self._writer: int
        self._transport: asyncio.BaseTransport

    async def __aenter__(self) -> Self:
        program = next((path for name in NAMES if (path := shutil.which(name))), None)
        assert program, "there is no Chromium: `make chromium` installs Debian's"
        to_browser, self._writer = os.pipe()
        ours, from_browser = os.pipe()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _WITH_PIPES, str(to_browser), str(from_browser)),
            program,
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",  # CI runs as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--window-size=1280,900",
            "--disable-background-networking",
            f"--user-data-dir={self._folder / 'profile'}",
            "about:blank",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(to_browser, from_browser),
            env={**os.environ, "HOME": str(self._folder)},
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._reader = asyncio.StreamReader(limit=MESSAGE_MAX_BYTES)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._reader), os.fdopen(ours, "rb")
        )
        target = await self._call("Target.createTarget", url="about:blank")
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self._call(f"{domain}.enable")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._session = ""
        try:
            await self._call("Browser.close")
            await asyncio.wait_for(self._process.wait(), ANSWER_TIMEOUT_SECONDS)
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            self._transport.close()
            os.close(self._writer)

    async def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        answer = await self._call("Page.navigate", url=url)
        assert not answer.get("errorText"), answer
        await self._until(lambda message: message.get("method") == "Page.loadEventFired")

    async def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is awaited."""
        answer = await self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def look(self, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Set the size of the window, and the color scheme that the user prefers."""
        await self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._call("Emulation.setEmulatedMedia", features=[scheme])

    async def set_scripts(self, *, enabled: bool) -> None:
        """Allow or forbid the scripts of pages that are opened from now on."""
        await self._call("Emulation.setScriptExecutionDisabled", value=not enabled)

    async def press(self, key: str) -> None:
        """Press a key that types one character."""
        await self._call("Input.dispatchKeyEvent", type="keyDown", text=key, key=key)
        await self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while not (value := await self.run(expression)):  # noqa: ASYNC110 - the page has no such event
                await asyncio.sleep(POLL_SECONDS)
            return value

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page, as PNG."""
        picture = await self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        answer = await self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def _until(self, fits: Any) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while True:
                message: dict[str, Any] = json.loads((await self._reader.readuntil(b"\0"))[:-1])
                self._note(message)
                if fits(message):
                    return message

    def _note(self, message: dict[str, Any]) -> None:
        """Remember an error that a page logs."""
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if parameters["type"] in {"error", "assert"}:
                self.complaints.append(json.dumps(parameters["args"]))
