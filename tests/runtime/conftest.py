"""What tests of the runtime share: Chromium without a window, driven over WebDriver's plain HTTP; the real adbd and sshd."""

from __future__ import annotations

import base64
import gc
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from .adb_here import AdbHere
from .sshd_here import SshdHere

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # containers run tests as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE, DESKTOP = 360, 1280

_BROKEN_IMAGES = "return [...document.images].filter(i => !i.naturalWidth).map(i => i.alt || i.src.slice(0, 60))"
_TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Text whose contrast with the nearest opaque background is below 4.5 (WCAG 2.1, 1.4.3; luminance as defined there).
_PALE_TEXT = """
const channels = colour => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const opaque = element => { const c = channels(getComputedStyle(element).backgroundColor); return c[3] === 0 ? null : c; };
const behind = element => element ? opaque(element) || behind(element.parentElement) : [255, 255, 255];
return [...document.body.querySelectorAll('*')]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
  .map(e => [e, [light(channels(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a)])
  .filter(([, [more, less]]) => (more + 0.05) / (less + 0.05) < 4.5)
  .map(([e]) => e.textContent.trim().slice(0, 60));
"""


class Browser:
    """One browser, opened once and used for many pages.

    Args:
        chromedriver: path of the driver.
        profile: an empty folder for what the browser keeps.
    """

    def __init__(self, chromedriver: str, profile: Path) -> None:
        self._http = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way to this machine
        self._driver = subprocess.Popen(
            [chromedriver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._session = ""
        try:
            self._address = f"http://127.0.0.1:{self._port()}"
            options = {"args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            logs = {"browser": "ALL", "performance": "ALL"}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
            self._session = f"/{self._call('', {'capabilities': {'alwaysMatch': wanted}})['sessionId']}"
        except BaseException:
            self.close()
            raise

    def problems(self, page: Path) -> list[str]:
        """Everything wrong with a page, in words: on a phone and a desktop screen, in light and in dark."""
        found = []
        for width, scheme in ((PHONE, "light"), (DESKTOP, "dark")):
            self.open(page, width, scheme)
            found += [f"console: {entry['message']}" for entry in self._log("browser")]
            found += [f"request: {address}" for address in self._requests() if address != page.as_uri()]
            found += [f"broken image: {name}" for name in self.run(_BROKEN_IMAGES)]
            found += [f"too pale in {scheme}: {text}" for text in self.run(_PALE_TEXT)]
            if surplus := self.run(_TOO_WIDE):
                found.append(f"scrolls sideways by {surplus} px at a width of {width}")
            if self.screenshot().std() < 2:
                found.append(f"blank at a width of {width}")
        return found

    def close(self) -> None:
        """Close the browser and its driver."""
        try:
            if self._session:
                self._call(self._session, method="DELETE")
        finally:
            self._driver.terminate()
            self._driver.communicate(timeout=20)

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Show a page on a screen so wide, ``light`` or ``dark``."""
        mobile = width == PHONE
        screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": mobile}
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        self._devtools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        for name in ("browser", "performance"):
            self._log(name)  # reading empties it
        self._call(f"{self._session}/url", {"url": page.as_uri()})

    def _requests(self) -> list[str]:
        """Addresses that the page asked for, other than data within it."""
        messages = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith("data:")]

    def screenshot(self, whole: bool = False) -> np.ndarray:
        """(H, W, 3) of what the screen shows, or of the whole page."""
        png = base64.b64decode(self._devtools("Page.captureScreenshot", {"captureBeyondViewport": whole})["data"])
        return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))

    def run(self, script: str) -> Any:
        """What a script on the open page returns."""
        return self._call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def _log(self, name: str) -> Any:
        return self._call(f"{self._session}/se/log", {"type": name})

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _call(self, path: str, body: Any = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._address}/session{path}", data, method=method)
        with self._http.open(request, timeout=60) as response:
            return json.load(response)["value"]

    def _port(self) -> int:
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return int(match[1])
        raise RuntimeError("chromedriver ended without naming its port")


@pytest.fixture(scope="module")
def few_objects_to_collect() -> Iterator[None]:
    """Every conversion by coremltools collects garbage; walking all that torch allocated on import takes most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def browser(chromedriver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that opens files."""
    opened = Browser(chromedriver, tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def adb_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbHere]:
    """A device behind the real adb. Do not break it."""
    device = AdbHere(tmp_path_factory.mktemp("adb"))
    yield device
    device.close()


@pytest.fixture(scope="session")
def sshd_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshdHere]:
    """A machine behind the real ssh. Do not break it."""
    machine = SshdHere(tmp_path_factory.mktemp("sshd"))
    yield machine
    machine.close()
