"""Speculative guided decoding against the unguided base in plain `generate()`.

How many drafts are accepted depends on what models say, so these are trained ones: the playground's base and a reward
model trained for it. The base is made as expensive as one likes by layers whose output projections are zero: they are
computed, and add nothing, so the distribution is the same at any price. The small base is the playground's without its
last layer. Drafts may also be looked up in the text: the playground's replies repeat themselves.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import torch

import genarm_hf

from .. import playground
from .timing import alternate, ratio

# who drafts, whether tokens are sampled, and layers of the base: more than ten times reward model and draft together
CASES: tuple[tuple[str, bool, int], ...] = (
    ("reward model", False, 48),
    ("reward model", True, 48),
    ("small base", False, 96),
    ("small base", True, 96),
    ("prompt lookup", False, 48),
    ("prompt lookup", True, 48),
)
ALPHAS = (1.0,)
ASKED = 0.75
LOOKUP_TOKENS = 10
_PAIRS = 600

Policy = dict[str, Any]


def _policy(tokens: int, schedule: str = "constant", threshold: float = 0.0) -> Policy:
    return {
        "num_assistant_tokens": tokens,
        "num_assistant_tokens_schedule": schedule,
        "assistant_confidence_threshold": threshold,
    }


# how long a draft is, as the assistant's generation config says it
POLICIES: dict[str, Policy] = {
    "5 tokens": _policy(5),
    "10 tokens": _policy(10),
    "20 tokens": _policy(20),
    "heuristic from 5": _policy(5, "heuristic"),
    "20, confidence 0.2": _policy(20, threshold=0.2),
    "20, confidence 0.4": _policy(20, threshold=0.4),
    "20, confidence 0.6": _policy(20, threshold=0.6),
    "20, confidence 0.8": _policy(20, threshold=0.8),
}
POLICY_ALPHAS = (0.5, 2.0)
DEFAULT: dict[str, Policy] = {"default": {}}


def with_layers(base: Any, layers: int) -> Any:
    """A Llama with more layers and the same distribution, or with its first layers only.

    Args:
        base: the model; it is not changed.
        layers: of the new one. Those that `base` lacks are computed and add nothing.
    """
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = layers
    deep = type(base)(config).to(base.device, base.dtype).eval()
    deep.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        for layer in deep.model.layers[base.config.num_hidden_layers :]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    deep.generation_config = copy.deepcopy(base.generation_config)
    return deep


def trained_reward_model(base: Any, tokenizer: Any, pairs: int = _PAIRS, seed: int = 0) -> Any:
    """A reward model for the playground's objective "harmless", with weights of its own; about 40 s on one core."""
    from peft import LoraConfig
    from transformers import PrinterCallback

    from ..training import ARMTrainer, ARMTrainingArguments

    drawn = playground.preference_pairs("harmless", pairs, seed, base)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    options: dict[str, Any] = {"use_cpu": base.device.type == "cpu", "save_strategy": "no", "report_to": "none"}
    options |= {"disable_tqdm": True, "logging_strategy": "no", "beta": 0.1, "learning_rate": 3e-3, "seed": seed}
    with TemporaryDirectory() as directory, torch.random.fork_rng():
        torch.manual_seed(seed)
        trainer = ARMTrainer(
            copy.deepcopy(base),
            args=ARMTrainingArguments(directory, per_device_train_batch_size=8, **options),
            train_dataset=[pair for pair in drawn if pair["chosen"] and pair["rejected"]],
            processing_class=tokenizer,
            peft_config=lora,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return trainer.model.merge_and_unload().eval()


@dataclass
class _Texts:
    """Generates a reply to every prompt, one after another, and remembers what came of it."""

    model: Any
    prompts: list[Any]
    settings: dict[str, Any]
    policy: Policy = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)
    speculation: list[Any] = field(default_factory=list)

    def __call__(self) -> None:
        self.tokens.append(0)
        torch.manual_seed(len(self.tokens))
        with _drafting(self.settings.get("assistant_model"), self.policy):
            for prompt in self.prompts:
                output = self.model.generate(**prompt, **self.settings, return_dict_in_generate=True)
                self.tokens[-1] += output.sequences.shape[1] - prompt["input_ids"].shape[1]
                if "speculation" in output:
                    self.speculation.append(output.speculation)

    def per_token(self, seconds: list[float]) -> list[float]:
        """Seconds per token of the rounds that counted."""
        return [time / tokens for time, tokens in zip(seconds, self.tokens[-len(seconds) :], strict=True)]

    def counted(self) -> dict[str, float]:
        """Forwards and acceptance of all rounds."""
        spoken, tokens = self.speculation, sum(self.tokens)
        forwards, drafted = sum(each.base_forwards for each in spoken), sum(each.drafted for each in spoken)
        return {
            "tokens_per_base_forward": tokens / forwards,
            "reward_forwards_per_token": sum(sum(each.reward_forwards) for each in spoken) / tokens,
            "drafted_per_round": drafted / sum(each.rounds for each in spoken),
            "acceptance": sum(each.accepted for each in spoken) / max(drafted, 1),
        }


@contextmanager
def _drafting(assistant: Any, policy: Policy) -> Iterator[None]:
    """An assistant with a generation config that says how long its drafts are."""
    if assistant is None:
        yield
        return
    own = assistant.generation_config
    assistant.generation_config = copy.deepcopy(own)
    assistant.generation_config.update(**policy)
    try:
        yield
    finally:
        assistant.generation_config = own


def bench_speculative(
    cases: Sequence[tuple[str, bool, int]] = CASES,
    repeats: int = 7,
    alphas: Sequence[float] = ALPHAS,
    policies: Mapping[str, Policy] = DEFAULT,
    prompts: int = 4,
    new_tokens: int = 64,
    pairs: int = _PAIRS,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    progress: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """The unguided base, the guided base token by token, and the guided base with drafts, in turn.

    Args:
        cases: `(who drafts, sampling, layers of the base)`.
        repeats: rounds that count.
        alphas: guidance strengths.
        policies: lengths of drafts to compare, by name; for `prompt lookup` there is one.
        prompts: texts in a round, one at a time.
        new_tokens: tokens of a reply at most.
        pairs: preference pairs that the reward model is trained on.
        dtype: of all models.
        device: where they are.
        progress: called after each run.

    Yields:
        a row per case, alpha and policy: seconds per token relative to the unguided base, and forwards and acceptance
        of the drafts.
    """
    genarm_hf.install()
    base, tokenizer = playground.load_base().to(device), playground.load_tokenizer()
    arm, base = trained_reward_model(base, tokenizer, pairs).to(dtype), base.to(dtype)
    small = with_layers(base, base.config.num_hidden_layers - 1)
    texts = [tokenizer([text], return_tensors="pt").to(device) for text in playground.prompts(prompts, seed=5)]
    for draft, sample, layers in cases:
        deep = with_layers(base, layers)
        settings: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": sample}
        settings |= {"top_k": 0} if sample else {}
        compared = DEFAULT if draft == "prompt lookup" else policies
        for alpha in alphas:
            runs = {
                name: _Texts(model, texts, settings) for name, model in [("base", deep), ("arm", arm), ("small", small)]
            }
            guided = settings | {"reward_models": [arm], "alpha": alpha}
            runs["guided"] = _Texts(deep, texts, guided)
            drafts = {"reward model": {"assistant_model": arm}, "small base": {"assistant_model": small}}
            how = drafts.get(draft, {"prompt_lookup_num_tokens": LOOKUP_TOKENS})
            runs |= {f"policy {name}": _Texts(deep, texts, guided | how, policy) for name, policy in compared.items()}
            times = alternate(runs, repeats, progress=progress)
            cost = {name: run.per_token(times[name]) for name, run in runs.items()}
            case = {"draft": draft, "sampling": sample, "alpha": alpha, "layers": layers}
            yield from (_row(case, name, cost, runs[f"policy {name}"]) for name in compared)


def _row(case: dict[str, Any], policy: str, cost: dict[str, list[float]], run: _Texts) -> dict[str, Any]:
    drafts = {
        "reward model": cost["arm"],
        "small base": [a + b for a, b in zip(cost["arm"], cost["small"], strict=True)],
    }.get(case["draft"])
    return {
        **case,
        "policy": policy,
        "base_ms_per_token": 1000 * ratio(cost["base"], [1.0] * len(cost["base"]))["median"],
        "base_of_draft": None if drafts is None else ratio(cost["base"], drafts),
        "guided_of_base": ratio(cost["guided"], cost["base"]),
        "speculative_of_base": ratio(cost[f"policy {policy}"], cost["base"]),
        "asked": ASKED,
        **run.counted(),
    }
