"""A browser, a server to point it at, and what neither may do: talk to anybody else."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# runs the command in a process that connects to nothing but itself
SERVER = """
import socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
        print("CONNECTS TO", address, file=sys.stderr, flush=True)
        raise OSError("no network in tests")
    return connect(self, address)
socket.socket.connect = guarded
from genarm_hf.cli import main
sys.exit(main(sys.argv[1:]))
"""


def chromium() -> str:
    """Where the browser is; the test is skipped, saying why, where something is missing."""
    for package in ("gradio", "playwright"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'genarm-hf[app-test]')")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on the path (Debian: apt-get install chromium; or name it in CHROMIUM)")
    return found


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def serving(cache: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """Address of `genarm-hf app`, and the file of what it prints."""
    port, log = free_port(), cache / "server.log"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GENARM_HF_APP": str(cache),
    }
    command = [sys.executable, "-c", SERVER, "app", "--port", str(port), *options]
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=cache, env=environment, stdout=out, stderr=subprocess.STDOUT) as server,
    ):
        try:
            _wait(f"http://127.0.0.1:{port}", server, log)
            yield f"http://127.0.0.1:{port}", log
        finally:
            server.terminate()


def _wait(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1200):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the app did not start:\n{log.read_text()[-4000:]}")


@contextmanager
def browsing(executable: str) -> Iterator[object]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
