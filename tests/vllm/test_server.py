"""The OpenAI-compatible server, started for real: the plugin reaches every process, and alpha every request."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from .conftest import random_prompts

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

START = 240  # seconds


@pytest.fixture(scope="module")
def server(zoo, tmp_path_factory):
    """Its address. Two reward models, at 0.6 and -0.2 where a request names no alpha."""
    folder = zoo.compose("base", ["same", "qwen2"], [0.6, -0.2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(url, process, log):
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the server did not start:\n{log.read_text()[-3000:]}")


def post(server, body):
    """Status and reply."""
    model = json.loads(urllib.request.urlopen(f"{server}/v1/models", timeout=30).read())["data"][0]["id"]
    request = urllib.request.Request(
        f"{server}/v1/completions",
        json.dumps({"model": model, "temperature": 0, "max_tokens": 12, "ignore_eos": True} | body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize("alpha", [None, 0.5, 0, [0.8, 0.2]])
def test_each_request_has_its_own_alpha(zoo, server, alpha):
    prompt = random_prompts([8])[0]
    body = {"prompt": prompt, "return_token_ids": True} | ({} if alpha is None else {"vllm_xargs": {"alpha": alpha}})
    status, reply = post(server, body)
    expected = zoo.expected("base", ["same", "qwen2"], prompt, [0.6, -0.2] if alpha is None else alpha, 12)
    assert status == 200, reply
    assert reply["choices"][0]["token_ids"] == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"vllm_xargs": {"alpha": [1.0]}}, "a list of 2, one for each reward model"),
        ({"vllm_xargs": {"alpha": "strong"}}, "a list of 2, one for each reward model"),
        ({"vllm_xargs": {"alphas": [1.0, 1.0]}}, "`alphas` is not an argument"),
        ({"echo": True, "logprobs": 1}, "those of the base alone"),
        ({"use_beam_search": True, "n": 2}, "beam search does not pass alpha on"),
    ],
)
def test_what_cannot_be_followed_is_a_400_with_the_reason(server, body, reason):
    status, reply = post(server, {"prompt": [5, 6]} | body)
    assert status == 400
    assert reason in reply["error"]["message"]
    # and the engine lives
    assert post(server, {"prompt": [5, 6]})[0] == 200
