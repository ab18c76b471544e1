"""A server in a process of its own on loopback, and requests to it."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START = 240  # seconds
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO", "HF_HUB_OFFLINE": "1"}
GENARM_HF = [sys.executable, "-m", "genarm_hf.cli"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """The address of a server, from when it answers until the block ends."""
    root = str(Path(__file__).parents[2])
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": root} | environment,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(url: str, process: Any, log: Path) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def get(server: str, path: str) -> str:
    with urllib.request.urlopen(f"{server}{path}", timeout=30) as reply:
        return reply.read().decode()


def post(server: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and reply."""
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextmanager
def streaming(server: str, path: str, body: dict[str, Any]) -> Iterator[Iterator[Any]]:
    """The chunks of a streamed reply as they come; the connection is closed when the block ends."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=120)
    try:
        data = json.dumps(body | {"stream": True})
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        assert reply.status == 200, reply.read()
        lines = (line.decode().strip().removeprefix("data: ") for line in reply)
        yield (json.loads(line) for line in lines if line and line != "[DONE]")
        reply.close()
    finally:
        connection.close()


def metric(server: str, name: str, *labels: str) -> float:
    """The sum of a Prometheus metric over what has all of `labels` in its line."""
    lines = [line for line in get(server, "/metrics").splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))
