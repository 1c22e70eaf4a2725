"""A headless Chromium, driven through the DevTools protocol over a pipe: no library is needed.

`Chromium()` starts one; `page(path, ...)` opens a file in it and tells what happened. Linux and macOS.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60.0  # that an answer may take, on a machine that others use as well


def executable() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """A page that has been loaded. `errors` are console errors, exceptions and requests that failed; `requests` all
    addresses asked for; `seconds` from navigation to the load event, as the browser measured it."""

    browser: Chromium
    session: str
    target: str
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    seconds: float = float("nan")

    def evaluate(self, script: str) -> Any:
        answer = self.browser.call("Runtime.evaluate", self.session, expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        answer = self.browser.call(
            "Page.captureScreenshot", self.session, format="png", captureBeyondViewport=whole, **self._clip(whole)
        )
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.browser.call("Page.getLayoutMetrics", self.session)["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)


class Chromium:
    """A browser process; a context manager."""

    def __init__(self) -> None:
        program = executable()
        if program is None:
            raise FileNotFoundError(f"no {' nor '.join(NAMES)} on this machine; Debian: apt-get install chromium")
        self.profile = tempfile.TemporaryDirectory()
        to_child, self.write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        self.read, from_child = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in os.pipe())
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [
            program, "--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--hide-scrollbars", f"--user-data-dir={self.profile.name}", *sandbox, "about:blank",
        ]  # fmt: skip
        shell = ["bash", "-c", f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}', *command]
        self.process = subprocess.Popen(shell, pass_fds=(to_child, from_child), stderr=subprocess.DEVNULL)
        os.close(to_child)
        os.close(from_child)
        self.number, self.buffer, self.pages = 0, b"", dict[str, Page]()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.read)
        os.close(self.write)
        self.profile.cleanup()

    def page(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False, scale: float = 1) -> Page:
        """Opens a file, and waits until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=scale,
                  mobile=phone)  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[feature])
        self.loaded = False
        self.call("Page.navigate", session, url=path.resolve().as_uri())
        self._until(lambda: self.loaded)
        page.seconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        return page

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        self.answer: dict[str, Any] | None = None
        self._until(lambda: self.answer is not None)
        assert self.answer is not None
        if "error" in self.answer:
            raise RuntimeError(f"{method}: {self.answer['error']['message']}")
        return self.answer["result"]

    def _until(self, done: Any) -> None:
        end = time.monotonic() + SECONDS
        while not done():
            left = end - time.monotonic()
            if left <= 0 or self.process.poll() is not None:
                raise TimeoutError("the browser gives no answer")
            if select.select([self.read], [], [], left)[0]:
                self.buffer += os.read(self.read, 2**20)
            *whole, self.buffer = self.buffer.split(b"\0")
            for text in whole:
                self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("id") == self.number:
            self.answer = message
        page, about = self.pages.get(message.get("sessionId", "")), message.get("params", {})
        if page is None:
            return
        method = message.get("method")
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            page.requests.append(about["request"]["url"])
        elif method == "Network.loadingFailed":
            page.errors.append(about["errorText"])
        elif method == "Runtime.exceptionThrown":
            page.errors.append(about["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            page.errors.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            page.errors.append(str(about["args"]))
