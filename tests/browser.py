"""Headless Chromium that tests drive through its DevTools protocol, over a pipe: no driver program is needed."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")


class Browser:
    """One page. What goes wrong in it is collected in `problems`: exceptions, and what its policy forbids."""

    def __init__(self, commands: int, answers: int, process: int) -> None:
        self.process, self.problems = process, list[str]()
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._number, self._session = 0, ""

    def open(self, url: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or what its promise resolves to."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 150) -> None:
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, (condition, self.evaluate("document.body?.innerText"), self.problems)
            time.sleep(0.05)

    def click(self, element: str, *, across: float = 0.5) -> None:
        """With the mouse: in the middle of the element that an expression gives, or at this share of its width."""
        box = "e.scrollIntoView(); const box = e.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]"
        x, y, width, height = self.evaluate(f"((e) => {{ {box} }})({element})")
        place = {"x": x + across * width, "y": y + height / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **place)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _receive(self) -> dict[str, Any]:
        content = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        return json.loads(content)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"]["exception"].get("description", "exception"))
        elif event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])


@contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Browser]:
    """Start Chromium with a profile in `folder`."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
    theirs_in, commands, answers, theirs_out = ends

    def connect() -> None:  # Chromium reads file descriptor 3 and writes 4
        os.dup2(theirs_in, 3)
        os.dup2(theirs_out, 4)

    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder}", *flags]
    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen(command, preexec_fn=connect, pass_fds=(3, 4), stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(commands, answers, process.pid)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a plain server for a folder."""
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":  # what an exported page says of itself
    with tempfile.TemporaryDirectory() as profile, served(Path(sys.argv[1])) as address, browser(Path(profile)) as one:
        one.open(address)
        one.wait_for('document.querySelector("#selftest")?.textContent')
        print(one.evaluate('document.querySelector("#selftest").textContent'))
