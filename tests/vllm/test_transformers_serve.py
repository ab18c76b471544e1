"""`genarm-hf serve --engine transformers`, started for real: the same request fields without vLLM.

It is tested here because this is the environment with a web server in it.
"""

import pytest
from transformers.utils.import_utils import is_serve_available

from .conftest import random_prompts
from .serving import GENARM_HF, free_port, post, running, streaming

# all that `transformers serve` needs: an environment may have a web server for another reason, as gradio brings one
if not is_serve_available():
    pytest.skip("there is no `transformers serve` (make test-vllm)", allow_module_level=True)


@pytest.fixture(scope="module")
def server(zoo, tmp_path_factory):
    """Its address, and the folder of the base, by which requests name the model. Alpha 0.7 where they name none."""
    port = free_port()
    command = [*GENARM_HF, "serve", "--model", zoo.path("base"), "--reward-model", zoo.path("same"), "--alpha", "0.7"]
    command += ["--engine", "transformers", "--", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    scratch = tmp_path_factory.mktemp("server")
    with running(command, port, scratch / "log.txt", HF_HOME=str(scratch)) as address:
        yield address


def body(zoo, prompt, alpha=None, **changes):
    extra = {} if alpha is None else {"vllm_xargs": {"alpha": alpha}}
    text = " ".join(f"w{token}" for token in prompt)
    return {"model": zoo.path("base"), "prompt": text, "temperature": 0, "max_tokens": 12} | extra | changes


def expected(zoo, prompt, alpha):
    """As text; `</s>` ends it."""
    tokens = zoo.expected("base", ["same"], prompt, alpha, 12)
    tokens = tokens[: tokens.index(2)] if 2 in tokens else tokens
    return " ".join(f"w{token}" for token in tokens if token > 2)


@pytest.mark.parametrize("alpha", [None, 0.3, 0, [1.0]])
def test_each_request_has_its_own_alpha(zoo, server, alpha):
    prompt = random_prompts([8])[0]
    status, reply = post(server, "/v1/completions", body(zoo, prompt, alpha))
    assert status == 200, reply
    assert reply["choices"][0]["text"] == expected(zoo, prompt, 0.7 if alpha is None else alpha)


def test_a_stream_is_guided(zoo, server):
    prompt = random_prompts([8])[0]
    with streaming(server, "/v1/completions", body(zoo, prompt, 0.3)) as chunks:
        text = "".join(chunk["choices"][0].get("text", "") for chunk in chunks)
    assert text.split() == expected(zoo, prompt, 0.3).split()


def test_a_generation_config_of_the_request_keeps_guidance(zoo, server):
    prompt = random_prompts([8])[0]
    asked = '{"max_new_tokens": 12, "do_sample": false}'
    status, reply = post(server, "/v1/completions", body(zoo, prompt, generation_config=asked))
    assert status == 200, reply
    assert reply["choices"][0]["text"] == expected(zoo, prompt, 0.7)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"alpha": [1.0, 1.0]}, "a list of 1, one for each reward model"),
        ({"alpah": 1.0}, "`alpah` is not an argument"),
        ([1.0], "must be an object"),
    ],
)
def test_what_cannot_be_followed_is_a_400_with_the_reason(zoo, server, extra, reason):
    status, reply = post(server, "/v1/completions", body(zoo, [5, 6], vllm_xargs=extra))
    assert status == 400
    assert reason in reply["detail"]
