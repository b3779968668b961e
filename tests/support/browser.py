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
from typing import Any, NamedTuple, Self

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

# The log of the browser has them as well, but not those of a policy that only reports.
_NOTE_VIOLATIONS = """document.addEventListener('securitypolicyviolation',
  event => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`))"""

# What a key is besides its name: the text that it types, and its code.
_KEYS = {"Tab": ("", 9), "Enter": ("\r", 13), "Escape": ("", 27), " ": (" ", 32), "ArrowLeft": ("", 37)}
_SHIFT = 8
_NAVIGATING = ("Cannot find context", "Inspected target navigated", "Execution context was destroyed")


class Node(NamedTuple):
    """An element as assistive technology has it."""

    role: str
    name: str
    backend_id: int


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
        self._loads = 0
        self._context = ""
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
            "--hide-scrollbars",
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
        await self.renew()
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

    async def renew(self) -> None:
        """Continue with an empty page of a new profile: no cookie, nothing stored, the default window."""
        self._session = ""
        if self._context:
            await self._call("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = (await self._call("Target.createBrowserContext"))["browserContextId"]
        page = {"url": "about:blank", "browserContextId": self._context}
        target = await self._call("Target.createTarget", **page)
        attached = await self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            await self._call(f"{domain}.enable")
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=_NOTE_VIOLATIONS)
        self.complaints.clear()

    async def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        before = self._loads
        answer = await self._call("Page.navigate", url=url)
        assert not answer.get("errorText"), answer
        await self._loaded(before)

    async def find(self, role: str, name: str) -> int:
        """The first element that has this role and accessible name, as assistive technology has them.

        Waits until it exists.
        """
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while True:
                root = (await self._call("DOM.getDocument", depth=0))["root"]["nodeId"]
                query = {"nodeId": root, "accessibleName": name, "role": role}
                found = await self._call("Accessibility.queryAXTree", **query)
                for each in found["nodes"]:
                    if not each["ignored"]:
                        return int(each["backendDOMNodeId"])
                await asyncio.sleep(POLL_SECONDS)

    async def click(self, role: str, name: str) -> None:
        """Click an element with the mouse, where it is."""
        node = await self.find(role, name)
        await self._call("DOM.scrollIntoViewIfNeeded", backendNodeId=node)
        boxes = (await self._call("DOM.getContentQuads", backendNodeId=node))["quads"]
        assert boxes, f"{role} {name!r} is not visible"
        place = {"x": (boxes[0][0] + boxes[0][4]) / 2, "y": (boxes[0][1] + boxes[0][5]) / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    async def follow(self, role: str, name: str) -> str:
        """Click what leads to another page, wait until that has loaded, and return its text."""
        before = self._loads
        await self.click(role, name)
        await self._loaded(before)
        return await self.text()

    async def fill(self, role: str, name: str, text: str) -> None:
        """Replace the text of a field by typing."""
        await self._call("DOM.focus", backendNodeId=await self.find(role, name))
        await self.run("document.activeElement.select()")
        await self._call("Input.insertText", text=text)

    async def text(self) -> str:
        """The text of the page, as it is shown."""
        return str(await self.run("document.body.innerText"))

    async def accessibility_tree(self) -> list[Node]:
        """All elements that assistive technology is offered, in the order in which it reads them."""
        nodes = (await self._call("Accessibility.getFullAXTree"))["nodes"]
        return [
            Node(
                each["role"]["value"],
                each.get("name", {}).get("value", ""),
                each.get("backendDOMNodeId", 0),
            )
            for each in nodes
            if not each["ignored"]
        ]

    async def set_network(self, *, connected: bool) -> None:
        """Connect the browser to the network, or disconnect it."""
        await self._call("Network.enable")
        speed = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self._call("Network.emulateNetworkConditions", offline=not connected, **speed)

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

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key: one that types a character, or one of `_KEYS`."""
        text, code = _KEYS.get(key, (key, 0))
        codes = {"windowsVirtualKeyCode": code, "code": key} if code else {}
        event = {"key": key, "modifiers": _SHIFT if shift else 0, **codes}
        await self._call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event
        )
        await self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def until(self, expression: str) -> Any:
        """Wait until an expression is true in the page, or in the one that follows, and return its value."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while True:
                try:
                    if value := await self.run(expression):
                        return value
                except AssertionError as error:
                    if not any(each in str(error) for each in _NAVIGATING):
                        raise
                await asyncio.sleep(POLL_SECONDS)

    async def screenshot(self, path: Path, *, whole: bool = False, quality: int = 82) -> None:
        """Write a picture of the window, or of the whole page: PNG, or WebP if the path ends so."""
        options = {"format": "webp", "quality": quality} if path.suffix == ".webp" else {"format": "png"}
        picture = await self._call("Page.captureScreenshot", captureBeyondViewport=whole, **options)
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

    async def _loaded(self, before: int) -> None:
        """Wait until a page has loaded after `before` others."""
        while self._loads <= before:
            await self._until(lambda message: message.get("method") == "Page.loadEventFired")

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
            case "Page.loadEventFired":
                self._loads += 1
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if parameters["type"] in {"error", "assert"}:
                self.complaints.append(json.dumps(parameters["args"]))
