"""Guided decoding against the stateless reference over random configurations."""

from typing import Any

import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from transformers import set_seed

from ..conftest import EOS, VOCAB, prompts, tiny
from .reference import StatelessGuidance

KINDS = ["llama", "qwen2", "gpt2", "mistral", "gemma"]
_models: dict[tuple, Any] = {}


def model(kind: str, seed: int, size: int = VOCAB) -> Any:
    key = (kind, seed, size)
    if key not in _models:
        _models[key] = tiny(kind, seed=seed, vocab_size=size)
    return _models[key]


strengths = st.floats(-1.5, 2.5, width=32).map(lambda x: 0.0 if abs(x) < 0.3 else round(x, 2))


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    arms, batch = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    form = draw(st.sampled_from(["number", "per arm", "per row", "callable"]))
    values = torch.tensor(
        draw(st.lists(st.lists(strengths, min_size=arms, max_size=arms), min_size=batch, max_size=batch))
    )
    alpha: Any = {"number": float(values[0, 0]), "per arm": values[0].tolist(), "per row": values}.get(form)
    if form == "callable":
        alpha = lambda step: values * (step % 3)  # noqa: E731
    return {
        "base": draw(st.sampled_from(KINDS)),
        "arms": [
            (
                draw(st.sampled_from(KINDS)),
                draw(st.integers(1, 3)),
                draw(st.sampled_from([VOCAB, VOCAB, VOCAB - 4, VOCAB + 3])),
            )
            for _ in range(arms)
        ],
        "form": form,
        "values": values.tolist(),
        "alpha": alpha,
        "prompt": {
            "batch": batch,
            "length": draw(st.integers(2, 12)),
            "seed": draw(st.integers(0, 99)),
            "padded": draw(st.booleans()),
        },
        "own": [draw(st.booleans()) and draw(st.integers(2, 10)) for _ in range(arms)],
        "mode": draw(
            st.sampled_from(
                [
                    {},
                    {"use_cache": False},
                    {"cache_implementation": "static"},
                    {"prefill_chunk_size": 3},
                    {"do_sample": True, "top_k": 0},
                    {"do_sample": True, "num_return_sequences": 2, "top_k": 9, "temperature": 0.8},
                    {"num_beams": 3},
                    {"num_beams": 2, "num_return_sequences": 2, "do_sample": True, "top_k": 0},
                    {"repetition_penalty": 1.3},
                ]
            )
        ),
        "new": draw(st.integers(1, 9)),
        "seed": draw(st.integers(0, 999)),
    }


@settings(max_examples=300, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(configurations())
def test_generate_equals_the_stateless_loop(case: dict[str, Any]) -> None:
    note(f"{case}")
    base, arms = model(case["base"], 0), [model(*arm) for arm in case["arms"]]
    # stock's own penalty spares padding, and the bare processor of the reference does not know what that is
    unpadded = {"padded": False} if "repetition_penalty" in case["mode"] else {}
    prompt = prompts(**case["prompt"] | unpadded)
    own = [
        prompts(case["prompt"]["batch"], length, seed=50 + i, padded=case["prompt"]["padded"]) if length else None
        for i, length in enumerate(case["own"])
    ]
    for inputs, (_, _, size) in zip(own, case["arms"], strict=True):
        if inputs is not None:
            inputs["input_ids"].clamp_(max=size - 1)
    mode = {"max_new_tokens": case["new"], "do_sample": False} | case["mode"]
    beams = mode.get("num_beams", 1) > 1
    stateless = StatelessGuidance(arms, case["alpha"], prompt, own, normalize=beams)
    plain = {
        k: v for k, v in mode.items() if k not in ("cache_implementation", "prefill_chunk_size", "repetition_penalty")
    }
    processors: list[Any] = [stateless]
    if "repetition_penalty" in mode:
        from transformers import RepetitionPenaltyLogitsProcessor

        processors.append(RepetitionPenaltyLogitsProcessor(mode["repetition_penalty"]))
    set_seed(case["seed"])
    expected = base.generate(**prompt, logits_processor=processors, **plain | {"use_cache": False})
    set_seed(case["seed"])
    output = base.generate(**prompt, reward_models=arms, alpha=case["alpha"], reward_inputs=own, **mode)
    assert torch.equal(output, expected)


@settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(configurations(), st.sampled_from(["batch", "padding", "alpha 0"]))
def test_equal_trajectories(case: dict[str, Any], change: str) -> None:
    """Batched = single, padded = unpadded, alpha 0 = base."""
    base, arms = model(case["base"], 0), [model(*arm) for arm in case["arms"]]
    prompt, values = prompts(**case["prompt"]), torch.tensor(case["values"])
    greedy = {"max_new_tokens": case["new"], "do_sample": False, "eos_token_id": None}
    if change == "alpha 0":
        guided = base.generate(**prompt, reward_models=arms, alpha=torch.zeros_like(values), **greedy)
        assert torch.equal(guided, base.generate(**prompt, **greedy))
        return
    together = base.generate(**prompt, reward_models=arms, alpha=values, **greedy)
    for row in range(len(values)):
        start = int((prompt["attention_mask"][row] == 0).sum()) if change == "padding" else 0
        single = {name: tensor[row : row + 1, start:] for name, tensor in prompt.items()}
        alone = base.generate(**single, reward_models=arms, alpha=values[row : row + 1], **greedy)
        assert torch.equal(together[row, start:], alone[0]), EOS
