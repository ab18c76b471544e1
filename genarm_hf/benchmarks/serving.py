"""What guidance costs in vLLM: `python -m genarm_hf.benchmarks.serving`, where vLLM is installed.

`throughput`: requests of unequal length all at once, in vLLM with and without guidance and in transformers with fixed
batches. `load`: clients that ask one thing after the other, of a guided server and of the base's. What is compared runs
in turn; a ratio is the median of the ratios of neighbours.
"""

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .shapes import Shape
from .timing import alternate, environment, ratio

SHAPE = Shape(hidden=320, layers=6, heads=5, intermediate=864, vocab=32000)
"""18M parameters, in heads of 64, which vLLM has kernels for on CPUs."""

_START = 600  # seconds that a server may take
_PORTS = {"base": 8701, "guided": 8702}


@dataclass(frozen=True)
class Request:
    """A prompt of random ids and how many tokens to answer with, no fewer."""

    prompt: list[int]
    tokens: int


def unequal_requests(count: int, vocab: int, seed: int = 0) -> list[Request]:
    """Prompts of 8 to 64 tokens and replies of 16 to 128."""
    draw = random.Random(seed)
    return [
        Request([draw.randrange(3, vocab) for _ in range(draw.randint(8, 64))], draw.randint(16, 128))
        for _ in range(count)
    ]


def chat_requests(count: int, vocab: int, seed: int = 0) -> list[Request]:
    """Prompts and replies as long as those of HH-RLHF, see [`hh_like_pairs`]: most are short, a few are very long."""
    from .train import hh_like_pairs

    return [Request(pair["prompt_ids"], len(pair["chosen_ids"])) for pair in hh_like_pairs(count, vocab, seed)]


LENGTHS = {"uniform": unequal_requests, "hh": chat_requests}


def write_models(folder: Path, shape: Shape = SHAPE) -> dict[str, Path]:
    """A base, a reward model of equal size, and their composition, on disk."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from ..integrations.vllm.composition import compose, open_part, write

    words = Tokenizer(models.WordLevel({str(index): index for index in range(shape.vocab)}, unk_token="0"))
    for seed, name in enumerate(("base", "arm")):
        shape.build(seed).save_pretrained(folder / name)
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0").save_pretrained(folder / name)
    write(compose(open_part(str(folder / "base")), [open_part(str(folder / "arm"))], [1.0]), folder / "guided")
    return {name: folder / name for name in ("base", "arm", "guided")}


# ---------------------------------------------------------------------- all at once


def bench_throughput(
    places: dict[str, Path],
    requests: Sequence[Request],
    repeats: int,
    batches: Sequence[int] = (1, 8, 32),
    **options: Any,
) -> dict[str, Any]:
    """Tokens per second of each system, and what guidance is worth.

    Args:
        places: what [`write_models`] wrote.
        requests: what is asked at once.
        repeats: rounds that count.
        batches: sizes of transformers' batches; of size 1 only every eighth request is run.
        **options: of vLLM's engines.
    """
    from transformers import AutoModelForCausalLM
    from vllm import LLM

    base, arm = (AutoModelForCausalLM.from_pretrained(places[name]).eval() for name in ("base", "arm"))
    longest = max(len(request.prompt) + request.tokens for request in requests)
    settings = {"dtype": "float32", "enable_prefix_caching": False, "max_model_len": longest} | options
    engines = {f"vllm {name}": LLM(str(places[name]), **settings) for name in ("base", "guided")}
    parts = {f"transformers guided, {size}": (size, requests[::8] if size == 1 else requests) for size in batches}
    for engine in engines.values():
        run_vllm(engine, requests[:4])
    run_transformers(base, arm, requests[:4], 4)
    runs: dict[str, Any] = {name: lambda engine=engine: run_vllm(engine, requests) for name, engine in engines.items()}
    runs |= {
        name: lambda size=size, part=part: run_transformers(base, arm, part, size)
        for name, (size, part) in parts.items()
    }
    times = alternate(runs, repeats, warmup=0)
    counts = {name: sum(request.tokens for request in parts.get(name, (0, requests))[1]) for name in runs}
    largest = f"transformers guided, {max(batches)}"
    return {
        "padded_of_asked": _padded(requests, max(batches)) / counts["vllm base"],
        "tokens_per_second": {name: counts[name] / statistics.median(times[name]) for name in runs},
        "guided_of_base": ratio(times["vllm base"], times["vllm guided"]),
        "guided_of_transformers": ratio(times[largest], times["vllm guided"]),
    }


def _padded(requests: Sequence[Request], size: int) -> int:
    """Tokens that fixed batches decode, each row until the longest reply of its batch has ended."""
    batches = [requests[start : start + size] for start in range(0, len(requests), size)]
    return sum(len(batch) * max(request.tokens for request in batch) for batch in batches)


def run_vllm(engine: Any, requests: Sequence[Request]) -> list[list[int]]:
    """Answer all requests at once; new tokens of each."""
    from vllm import SamplingParams

    sampling = [SamplingParams(temperature=0, max_tokens=request.tokens, ignore_eos=True) for request in requests]
    prompts = [{"prompt_token_ids": request.prompt} for request in requests]
    outputs = engine.generate(prompts, sampling, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def run_transformers(base: Any, arm: Any, requests: Sequence[Request], size: int) -> list[list[int]]:
    """Answer requests in batches, padded on the left, each until its longest reply; new tokens of each."""
    import torch

    replies: list[list[int]] = []
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        width, tokens = max(len(r.prompt) for r in batch), max(r.tokens for r in batch)
        ids = torch.tensor([[0] * (width - len(r.prompt)) + r.prompt for r in batch])
        mask = torch.tensor([[0] * (width - len(r.prompt)) + [1] * len(r.prompt) for r in batch])
        output = base.generate(
            ids,
            attention_mask=mask,
            reward_models=[arm],
            alpha=1.0,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=-1,
        )
        replies += [row[: r.tokens] for row, r in zip(output[:, width:].tolist(), batch, strict=True)]
    return replies


# ---------------------------------------------------------------------- over HTTP


def bench_load(places: dict[str, Path], requests: Sequence[Request], clients: int, repeats: int) -> dict[str, Any]:
    """Throughput and waiting times of clients, at the guided server and at the base's.

    Args:
        places: what [`write_models`] wrote.
        requests: what the clients ask, one thing after the other, shared among them.
        clients: how many ask at once.
        repeats: rounds that count.
    """
    names = ("base", "guided")
    with _serving(places["base"], _PORTS["base"]), _serving(places["guided"], _PORTS["guided"]):
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for round_ in range(-1, repeats):
            for name in names:
                found = load(f"127.0.0.1:{_PORTS[name]}", str(places[name]), requests, clients)
                rounds[name] += [found] if round_ >= 0 else []
    seconds = {name: [found["seconds"] for found in rounds[name]] for name in names}
    return {name: _middle(rounds[name]) for name in names} | {
        "guided_of_base": ratio(seconds["base"], seconds["guided"])
    }


def load(address: str, model: str, requests: Sequence[Request], clients: int) -> dict[str, Any]:
    """What clients see who share requests among them and each wait for a reply before they ask again.

    Args:
        address: host and port.
        model: the name that requests give.
        requests: what is asked.
        clients: how many ask at once.

    Returns:
        `seconds` in all, `tokens_per_second`, and of each request the seconds until the first token and the last one,
        `first` and `last`.
    """
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = list(pool.map(lambda request: _ask(address, model, request), requests))
    seconds = time.perf_counter() - start
    first, last = zip(*waits, strict=True)
    tokens = sum(request.tokens for request in requests)
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "first": list(first), "last": list(last)}


def _ask(address: str, model: str, request: Request) -> tuple[float, float]:
    """Seconds until the first token and until the last of a streamed reply."""
    body = {"model": model, "prompt": request.prompt, "max_tokens": request.tokens, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True}
    connection = http.client.HTTPConnection(address, timeout=600)
    start = time.perf_counter()
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"the server answered {reply.status}: {reply.read().decode()}")
        times = [time.perf_counter() - start for line in reply if line.startswith(b"data: {")]
        return times[0], times[-1]
    finally:
        connection.close()


def _middle(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Median throughput, and percentiles over the requests of all rounds, in seconds."""
    found = {"tokens_per_second": statistics.median(one["tokens_per_second"] for one in rounds)}
    for name in ("first", "last"):
        cuts = statistics.quantiles([wait for one in rounds for wait in one[name]], n=100, method="inclusive")
        found |= {f"{name}_p50": cuts[49], f"{name}_p99": cuts[98]}
    return found


@contextmanager
def _serving(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "256", "--no-enable-prefix-caching"]
    with open(f"{folder}.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, f"{folder}.log")
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait(url: str, process: Any, log: str) -> None:
    end = time.monotonic() + _START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start: {Path(log).read_text(encoding='utf-8')[-2000:]}")


# ---------------------------------------------------------------------- the command


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print json."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # or the servers would outlive this process
    parser = argparse.ArgumentParser("python -m genarm_hf.benchmarks.serving", description=__doc__)
    parser.add_argument("what", choices=("throughput", "load"))
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--lengths", choices=LENGTHS, default="uniform", help="of prompts and replies (default: uniform)"
    )
    options = parser.parse_args(argv)
    requests = LENGTHS[options.lengths](options.requests, SHAPE.vocab)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    with tempfile.TemporaryDirectory() as folder:
        places = write_models(Path(folder))
        if options.what == "load":
            found = bench_load(places, requests, options.clients, options.repeats)
        else:
            # both engines and transformers take turns in this process, with the threads that OMP_NUM_THREADS says
            os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
            found = bench_throughput(places, requests, options.repeats)
    from importlib.metadata import packages_distributions, version

    engine = {"vllm": version(packages_distributions()["vllm"][0]), "load": os.getloadavg()}
    print(json.dumps({"what": options.what, "environment": environment() | engine} | found, indent=2))


if __name__ == "__main__":
    main()
