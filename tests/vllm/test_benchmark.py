"""The systems that `genarm_hf.benchmarks.serving` compares do the same work."""

import pytest
from transformers import AutoModelForCausalLM

from genarm_hf.benchmarks.serving import (
    bench_throughput,
    chat_requests,
    run_transformers,
    run_vllm,
    unequal_requests,
    write_models,
)
from genarm_hf.benchmarks.shapes import Shape

from .conftest import start

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

SHAPE = Shape(hidden=64, layers=1, heads=2, intermediate=64, vocab=64)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"), SHAPE)


def test_lengths_are_unequal_and_the_same_each_time():
    requests = unequal_requests(32, 64)
    assert requests == unequal_requests(32, 64)
    assert len({request.tokens for request in requests}) > 16
    assert {8 <= len(r.prompt) <= 64 and 16 <= r.tokens <= 128 for r in requests} == {True}


def test_chats_are_short_and_sometimes_long():
    requests = chat_requests(200, 64)
    tokens = sorted(request.tokens for request in requests)
    assert requests == chat_requests(200, 64) and 30 < tokens[100] < 45 and tokens[-1] > 4 * tokens[100]


def test_all_systems_give_the_same_tokens(places):
    requests = unequal_requests(6, 64, seed=1)
    base, arm = (AutoModelForCausalLM.from_pretrained(places[name]).eval() for name in ("base", "arm"))
    single = run_transformers(base, arm, requests, 1)
    assert [len(reply) for reply in single] == [request.tokens for request in requests]
    assert single == run_transformers(base, arm, requests, 4) == run_vllm(start(places["guided"]), requests)


def test_throughput_is_of_all_systems(places):
    requests = unequal_requests(4, 64)
    tokens = [request.tokens for request in requests]
    found = bench_throughput(
        places, requests, repeats=1, batches=(1, 4), enforce_eager=True, num_gpu_blocks_override=64
    )
    names = {"vllm base", "vllm guided", "transformers guided, 1", "transformers guided, 4"}
    assert found["tokens_per_second"].keys() == names
    assert found["padded_of_asked"] == 4 * max(tokens) / sum(tokens)
    assert found["guided_of_base"]["median"] > 0 < found["guided_of_transformers"]["median"]
