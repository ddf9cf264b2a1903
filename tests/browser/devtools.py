"""A browser that a test types into: Chromium's own protocol over a pair of pipes, without any other package."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync --disable-component-update "
    "--hide-scrollbars"
)


class Browser:
    """One page of a headless browser; use it as a context manager.

    Args:
        binary: of Chromium.
        profile: an empty folder for what it keeps.
        width: of the page in CSS pixels; unlike a window it may be as narrow as a phone.
        height: likewise.
    """

    def __init__(self, binary: str, profile: Path, width: int, height: int):
        self.size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        to_browser, self.sending = os.pipe()
        self.receiving, from_browser = os.pipe()
        launch = f"exec {shlex.quote(binary)} {FLAGS} --remote-debugging-pipe --user-data-dir={shlex.quote(str(profile))}"
        shell = ["bash", "-c", f"{launch} about:blank 3<&{to_browser} 4>&{from_browser}"]
        self.process = subprocess.Popen(shell, pass_fds=(to_browser, from_browser), stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.rest, self.number, self.session = b"", 0, None
        self.console: list[str] = []

    def __enter__(self) -> "Browser":
        """Attach to the page."""
        target = next(each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **self.size)
        return self

    def __exit__(self, *_: object) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(20)
        os.close(self.sending)
        os.close(self.receiving)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; what the page prints meanwhile is kept in `console`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": self.session} if self.session else {})
        os.write(self.sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.receiving, 1 << 20)
            assert part, "the browser ended"
            self.rest += part
        first, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(first)
        if message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(message["params"])[:500])
        if message.get("method") == "Page.loadEventFired":
            self.loaded = True
        return message

    def open(self, path: Path) -> None:
        """Load a file and wait until it is there."""
        self.loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self.loaded:
            self._message()

    def value(self, expression: str) -> Any:
        """Return what an expression gives inside the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key, as a keyboard does."""
        held = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **held)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def picture(self, path: Path) -> None:
        """Keep a picture of the whole page."""
        import base64

        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        area = {"x": 0, "y": 0, "width": self.size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=area)
        path.write_bytes(base64.b64decode(shot["data"]))
