"""What guidance costs as things grow: the context, the reward models, the batch, and what is held in memory.

A context is read once, and then a few tokens at a time are decoded behind it by `generate()` and taken back again: so
every round sees the same length, and no round pays for the prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import genarm_hf

from .calls import StepClock, greedy, lora_reward_model
from .memory import in_fresh_process, peak_increase
from .shapes import SHAPES, Shape, parameters
from .timing import Times, alternate, ratio

AXES = ("length", "reward models", "batch", "memory")
LENGTHS = (1024, 2048, 4096, 8192)
COUNTS = tuple(range(1, 9))
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CASES: tuple[tuple[str], ...] = (("15M",),)
ALPHA = 1.0

# who guides, how many of them, and whether they share the base's weights
HELD: tuple[tuple[str, int], ...] = (("none", 0), ("own weights", 1), ("one pass", 1), ("one pass", 4), ("separate", 4))

_RANK = 16
_CHUNK = 512
_CONTEXT = 64  # of the axes that do not look at it
_STEPS = 8
_WARMUP = 1
_LARGE = 2e8  # parameters from which on reward models of weights of their own are left out


@dataclass
class Context:
    """A model, guided or not, behind a text that may grow; a call decodes a few tokens and takes them back.

    Attributes:
        model: whose `generate()` decodes.
        ids: `(batch, length)` the text.
        steps: tokens of a call.
        cache: of all of the text but its last token.
        clock: of the steps.
    """

    model: Any
    ids: Tensor
    steps: int = _STEPS
    cache: Any = None
    clock: StepClock = field(default_factory=StepClock)

    def read(self, ids: Tensor) -> "Context":
        """Go on to a longer text, in parts."""
        start = 0 if self.cache is None else self.cache.get_seq_length()
        with torch.no_grad():
            for part in ids[:, start:-1].split(_CHUNK, 1):
                output = self.model(part, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
                self.cache = output.past_key_values
        self.ids = ids
        return self

    def __call__(self) -> None:
        """Decode, and forget what was decoded."""
        settings = greedy(self.ids, self.steps) | {"return_dict_in_generate": True}
        output = self.model.generate(
            self.ids, past_key_values=self.cache, stopping_criteria=self.clock.started(), **settings
        )
        self.cache = output.past_key_values
        self.cache.crop(-self.steps)


def bench_scaling(
    cases: Sequence[tuple[str]] = CASES,
    axes: Sequence[str] = AXES,
    lengths: Sequence[int] = LENGTHS,
    counts: Sequence[int] = COUNTS,
    batches: Sequence[int] = BATCHES,
    repeats: int = 5,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Steps of the base alone and guided, in turn, along each axis.

    Args:
        cases: shapes of base and reward models.
        axes: see `AXES`.
        lengths: of the context, ascending.
        counts: numbers of reward models.
        batches: rows.
        repeats: rounds that count.
        dtype: of all weights.
        device: where they are.
        progress: called after each run.

    Yields:
        a row per place on an axis. `axis` and `at` say where; `base_ms` is a step of the base alone, `of_base` a guided
        step relative to it: LoRA reward models in `one pass` or `separate` ones, and of `own weights`. Along `memory`
        it has bytes: `expected` (weights, adapters and caches by arithmetic), `peak`, and `peak_of_expected`.
    """
    genarm_hf.install()
    for (shape,) in cases:
        common = {"shape": shape, "parameters": parameters(SHAPES[shape].build(device="meta"))}
        common["dtype"] = str(dtype).removeprefix("torch.")
        for axis in axes:
            if axis == "memory":
                rows = _memory(shape, dtype, device)
            elif axis == "length":
                rows = _along_length(shape, lengths, repeats, dtype, device, progress)
            else:
                places = [(1, n) for n in counts] if axis == "reward models" else [(n, 1) for n in batches]
                rows = _along(shape, axis, places, repeats, dtype, device, progress)
            yield from ({"axis": axis, **common, **row} for row in rows)


def _contexts(shape: Shape, batch: int, count: int, positions: int, dtype: torch.dtype, device: str) -> Any:
    """A context of the base alone and of every way to guide it, by name; nothing is read yet."""
    base = shape.build(0, dtype, device, positions)
    arms = [lora_reward_model(base, 1 + seed, _RANK) for seed in range(count)]
    models = {
        "base": base,
        "one pass": genarm_hf.guide(base, arms, ALPHA, share_backbone=True),
        "separate": genarm_hf.guide(base, arms, ALPHA, share_backbone=False),
    }
    if parameters(base) < _LARGE:
        own = [shape.build(1 + seed, dtype, device, positions) for seed in range(count)]
        models["own weights"] = genarm_hf.guide(base, own, ALPHA)
    nothing = torch.zeros((batch, 0), dtype=torch.long, device=device)
    return {name: Context(model, nothing) for name, model in models.items()}


def _steps(
    contexts: dict[str, Context], ids: Tensor, repeats: int, progress: Callable[[], Any] | None
) -> dict[str, Any]:
    """A row's numbers: decode behind a text, in turn."""
    for context in contexts.values():
        context.read(ids).clock = StepClock()
    alternate(contexts, repeats, _WARMUP, progress)
    times: Times = {name: context.clock.steps[_WARMUP:] for name, context in contexts.items()}
    return {
        "base_ms": 1000 * ratio(times["base"], [1.0] * repeats)["median"],
        "of_base": {name: ratio(seconds, times["base"]) for name, seconds in times.items() if name != "base"},
    }


def _along_length(
    name: str, lengths: Sequence[int], repeats: int, dtype: torch.dtype, device: str, progress: Any
) -> Iterator[dict[str, Any]]:
    shape = SHAPES[name]
    contexts = _contexts(shape, 1, 1, max(lengths) + _STEPS, dtype, device)
    text = torch.randint(3, shape.vocab, (1, max(lengths)), device=device)
    for length in lengths:
        yield {"at": length, "batch": 1, "reward_models": 1} | _steps(contexts, text[:, :length], repeats, progress)


def _along(
    name: str,
    axis: str,
    places: Sequence[tuple[int, int]],
    repeats: int,
    dtype: torch.dtype,
    device: str,
    progress: Any,
) -> Iterator[dict[str, Any]]:
    """Places are `(batch, reward models)`."""
    shape = SHAPES[name]
    for batch, count in places:
        contexts = _contexts(shape, batch, count, 2048, dtype, device)
        text = torch.randint(3, shape.vocab, (batch, _CONTEXT), device=device)
        row = {"at": batch if axis == "batch" else count, "batch": batch, "reward_models": count}
        yield row | _steps(contexts, text, repeats, progress)


# ---------------------------------------------------------------------- memory


def _memory(shape: str, dtype: torch.dtype, device: str, batch: int = 8, length: int = 512) -> Iterator[dict[str, Any]]:
    for mode, count in HELD:
        case = (shape, mode, count, batch, length, dtype, device)
        peak = in_fresh_process(peak_held, *case) if device == "cpu" else peak_held(*case)
        expected = expected_bytes(SHAPES[shape], mode, count, batch, length, dtype)
        total = sum(expected.values())
        row = {"at": mode, "batch": batch, "reward_models": count, "length": length}
        yield row | {"expected": expected, "peak": peak, "peak_of_expected": peak / total}


def expected_bytes(shape: Shape, mode: str, count: int, batch: int, length: int, dtype: torch.dtype) -> dict[str, int]:
    """Bytes that must be held, by arithmetic: `base`, `reward_models` and `caches` when the last token is decoded."""
    base = shape.build(dtype=dtype, device="meta")
    weights, size = parameters(base), dtype.itemsize
    own = weights if mode == "own weights" else 0
    if mode not in ("none", "own weights"):
        # low-rank terms of every linear layer but the output head
        own = sum(
            _RANK * (layer.in_features + layer.out_features)
            for name, layer in base.named_modules()
            if isinstance(layer, torch.nn.Linear) and name != "lm_head"
        )
    row = 2 * shape.layers * (shape.kv_heads or shape.heads) * (shape.hidden // shape.heads) * size
    caches = (1 + count) * batch * (length + _STEPS - 1) * row
    return {"base": weights * size, "reward_models": count * own * size, "caches": caches}


def peak_held(shape: str, mode: str, count: int, batch: int, length: int, dtype: torch.dtype, device: str) -> float:
    """Peak in bytes of making the models and generating behind a prompt that is read in parts."""
    _generate(SHAPES["1M"], mode, count, 1, 8, dtype, device)  # code and threads, which are no cost of the models
    return peak_increase(lambda: _generate(SHAPES[shape], mode, count, batch, length, dtype, device), device)


def _generate(shape: Shape, mode: str, count: int, batch: int, length: int, dtype: torch.dtype, device: str) -> None:
    base = shape.build(0, dtype, device)
    if mode == "own weights":
        arms = [shape.build(1 + seed, dtype, device) for seed in range(count)]
    else:
        arms = [lora_reward_model(base, 1 + seed, _RANK) for seed in range(count)]
    prompt = torch.randint(3, shape.vocab, (batch, length), device=device)
    guidance: dict[str, Any] = {"reward_models": arms, "alpha": ALPHA, "share_backbone": mode == "one pass"}
    genarm_hf.install()
    base.generate(prompt, **greedy(prompt, _STEPS), prefill_chunk_size=64, **(guidance if arms else {}))
