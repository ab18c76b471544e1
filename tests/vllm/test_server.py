"""`genarm-hf serve` with vLLM, started for real: the plugin reaches every process, and alpha every request."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from genarm_hf.benchmarks.serving import load, unequal_requests

from .conftest import random_prompts
from .serving import GENARM_HF, free_port, metric, post, running, streaming

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

ARMS, ALPHAS = ["same", "qwen2"], [0.6, -0.2]
# no roles, and no marks around a message
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def server(zoo, tmp_path_factory):
    """Its address. Two reward models, at 0.6 and -0.2 where a request names no alpha."""
    folder = zoo.compose("base", ARMS, ALPHAS)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    options += ["--served-model-name", "guided"]
    command = [*GENARM_HF, "serve", str(folder), "--", *options]
    with running(command, port, tmp_path_factory.mktemp("server") / "log.txt") as address:
        yield address


def body(alpha=None, **changes):
    """A request; `alpha=None` leaves it to the composition."""
    extra = {} if alpha is None else {"vllm_xargs": {"alpha": alpha}}
    return {"model": "guided", "temperature": 0, "max_tokens": 12, "ignore_eos": True} | extra | changes


def complete(server, prompt, alpha=None, **changes):
    """The choice that is the reply."""
    status, reply = post(server, "/v1/completions", body(alpha, prompt=prompt, return_token_ids=True, **changes))
    assert status == 200, reply
    return reply["choices"][0]


def expected(zoo, prompt, alpha, tokens=12):
    return zoo.expected("base", ARMS, prompt, ALPHAS if alpha is None else alpha, tokens)


@pytest.mark.parametrize("alpha", [None, 0.5, 0, [0.8, 0.2]])
def test_each_request_has_its_own_alpha(zoo, server, alpha):
    prompt = random_prompts([8])[0]
    assert complete(server, prompt, alpha)["token_ids"] == expected(zoo, prompt, alpha)


@pytest.mark.parametrize("alpha", [None, [0.8, 0.2]])
def test_chat_messages_are_guided_too(zoo, server, alpha):
    messages = [{"role": "user", "content": "w7 w8"}, {"role": "assistant", "content": "w9"}]
    request = body(alpha, messages=messages, return_token_ids=True)
    status, reply = post(server, "/v1/chat/completions", request)
    assert status == 200, reply
    assert reply["prompt_token_ids"] == [7, 8, 9]
    assert reply["choices"][0]["token_ids"] == expected(zoo, [7, 8, 9], alpha)


def test_streamed_text_is_the_same_and_comes_in_parts(server):
    prompt, changes = random_prompts([8])[0], {"max_tokens": 20}
    whole = complete(server, prompt, 0.5, **changes)["text"]
    with streaming(server, "/v1/completions", body(0.5, prompt=prompt, **changes)) as chunks:
        parts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert len([part for part in parts if part]) > 5
    assert "".join(parts) == whole != complete(server, prompt, 0, **changes)["text"]


def test_streamed_chat_is_guided(server):
    request = body([0.8, 0.2], messages=[{"role": "user", "content": "w7 w8"}])
    status, reply = post(server, "/v1/chat/completions", request)
    assert status == 200, reply
    with streaming(server, "/v1/chat/completions", request) as chunks:
        parts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(parts) == reply["choices"][0]["message"]["content"]


def test_concurrent_clients_do_not_disturb_each_other(zoo, server):
    prompts = random_prompts([5, 30, 12, 3, 21, 9, 17, 7], seed=4)
    alphas = [None, 0, 0.5, [0.8, 0.2], -0.5, [0, 1.0], 1.0, 0]
    tokens = [12, 40, 7, 25, 33, 9, 16, 28]
    with ThreadPoolExecutor(len(prompts)) as clients:
        found = clients.map(
            lambda prompt, alpha, count: complete(server, prompt, alpha, max_tokens=count), prompts, alphas, tokens
        )
        found = [choice["token_ids"] for choice in found]
    assert found == [
        expected(zoo, prompt, alpha, count) for prompt, alpha, count in zip(prompts, alphas, tokens, strict=True)
    ]


def test_a_client_that_leaves_takes_its_requests_along(zoo, server):
    """They are aborted long before their end, free their memory, and who comes next is guided as ever."""
    before, prompt = metric(server, "vllm:generation_tokens_total"), random_prompts([8])[0]
    request = body(0.5, prompt=prompt, max_tokens=240, temperature=1, n=4)
    with streaming(server, "/v1/completions", request) as chunks:
        assert next(chunks)["choices"]
    left = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    end = time.monotonic() + 20
    while any(metric(server, f"vllm:{name}") for name in left) and time.monotonic() < end:
        time.sleep(0.2)
    assert {name: metric(server, f"vllm:{name}") for name in left} == dict.fromkeys(left, 0)
    assert 0 < metric(server, "vllm:generation_tokens_total") - before < 4 * 240
    assert complete(server, prompt, 0.5)["token_ids"] == expected(zoo, prompt, 0.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vllm_xargs": {"alpha": [1.0]}}, "a list of 2, one for each reward model"),
        ({"vllm_xargs": {"alpha": "strong"}}, "a list of 2, one for each reward model"),
        ({"vllm_xargs": {"alphas": [1.0, 1.0]}}, "`alphas` is not an argument"),
        ({"echo": True, "logprobs": 1}, "those of the base alone"),
        ({"use_beam_search": True, "n": 2}, "beam search does not pass alpha on"),
    ],
)
def test_what_cannot_be_followed_is_a_400_with_the_reason(server, changes, reason):
    status, reply = post(server, "/v1/completions", body(prompt=[5, 6], **changes))
    assert status == 400
    assert reason in reply["error"]["message"]
    # and the engine lives
    assert complete(server, [5, 6])["token_ids"]


def test_a_bad_alpha_of_a_chat_is_a_400_too(server):
    status, reply = post(server, "/v1/chat/completions", body([1.0], messages=[{"role": "user", "content": "w7"}]))
    assert status == 400 and "a list of 2, one for each reward model" in reply["error"]["message"]


def test_the_load_test_counts_what_clients_see(server):
    requests = unequal_requests(6, 43)
    found = load(server.removeprefix("http://"), "guided", requests, clients=3)
    assert found["tokens_per_second"] == sum(request.tokens for request in requests) / found["seconds"]
    assert len(found["first"]) == len(found["last"]) == 6
    assert all(0 < first < last < found["seconds"] for first, last in zip(found["first"], found["last"], strict=True))
