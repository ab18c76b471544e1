"""What systems reply to prompts, and what every reply is worth and costs: the samples of claims about systems."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..evaluation import distinct_n
from ..evaluation.costs import counting
from ..evaluation.runner import batch_seed
from ..evaluation.systems import ModelSystem, from_decoder, guided, reply_logprobs
from ..playground import score
from ..playground.preferences import MAX_NEW_TOKENS
from .lab import Lab
from .samples import Sample
from .stages import SAMPLING, generate_by_stages

BATCH, LARGE_BATCH = 64, 300
WRITING = {"max_new_tokens": MAX_NEW_TOKENS}

REWARD, KL, PERPLEXITY, DISTINCT, LENGTH = "reward", "KL", "base perplexity", "distinct-2", "tokens"
QUALITY = (REWARD, KL, PERPLEXITY, DISTINCT, LENGTH)
BASE_TOKENS, OTHER_TOKENS, SECONDS = "base tokens per token", "other tokens per token", "seconds per 128 tokens"
COSTS = ("base forwards", BASE_TOKENS, OTHER_TOKENS, SECONDS)


def sampled(lab: Lab, model: Any, **options: Any) -> Any:
    """A model's samples, guided or not, as a system for [`judged`]; `options` are further ones of `generate()`."""
    return guided(model, lab.tokenizer, keep_ids=True, keep_logprobs=True, **(SAMPLING | options))


def sampled_by_stages(lab: Lab, model: Any, **options: Any) -> Any:
    """As [`sampled`], in two thirds of the time; not for costs, which are those of one `generate()` call."""

    def decode(prompts: list[Any], inputs: dict[str, Tensor], alpha: Any) -> Any:
        def generate(alpha: None, **kwargs: Any) -> Any:
            return model.generate(**kwargs)

        return generate_by_stages(generate, inputs, lab.tokenizer.eos_token_id, **options)

    return ModelSystem(model, lab.tokenizer, decode, keep_ids=True, settings={})


def decoded(lab: Lab, decode: Callable[..., Any], reward: Any, **options: Any) -> Any:
    """A test-time baseline on the strong base as a system for [`judged`]."""
    return from_decoder(decode, lab.strong, lab.tokenizer, reward, keep_ids=True, **WRITING, **options)


def judged(
    lab: Lab,
    system: Any,
    prompts: Sequence[str],
    seed: int,
    objective: str,
    others: Mapping[str, Any] | None = None,
    batch_size: int = BATCH,
) -> list[Sample]:
    """Let a system reply once to each prompt.

    Args:
        lab: whose strong base is what distance and fluency are measured from.
        system: as [`sampled`] and [`decoded`] make them.
        prompts: all are replied to, by batches.
        seed: of the draws.
        objective: whose oracle judges.
        others: models besides the base that the system asks, by any names.
        batch_size: prompts at once.

    Returns:
        A sample a prompt: `reward`, points of the oracle; `KL`, the log-ratio of policy and base in nats, whose mean
        estimates the divergence, or None where the system does not know what it draws from; `base perplexity` of the
        reply; `distinct-2` of all replies together; costs of its batch: passes of the base, tokens that base and others
        read for every token written, seconds per 128 of these.
    """
    samples: list[Sample] = []
    for start in range(0, len(prompts), batch_size):
        batch = list(prompts[start : start + batch_size])
        numbers = range(start, start + len(batch))
        with counting(base=lab.strong, **(others or {})) as costs:
            replies = system(batch, batch_seed(seed, 0, numbers))
        spent = _costs(costs, sum(reply["tokens"] for reply in replies))
        lines = [{"prompt": prompt, **reply} for prompt, reply in zip(batch, replies, strict=True)]
        worth = _worth(lab, lines, objective)
        samples += [{"prompt": number, **one, **spent} for number, one in zip(numbers, worth, strict=True)]
    variety = distinct_n([sample["reply"] for sample in samples], 2)
    return [{**sample, DISTINCT: variety} for sample in samples]


def _worth(lab: Lab, lines: Sequence[Mapping[str, Any]], objective: str) -> list[Sample]:
    base = [sum(row) for row in reply_logprobs(lab.strong, lab.tokenizer, lines, BATCH)]
    return [
        {
            "reply": line["reply"],
            LENGTH: line["tokens"],
            REWARD: score(objective, line["prompt"], line["reply"]),
            KL: sum(line["reply_logprobs"]) - of_base if "reply_logprobs" in line else None,
            PERPLEXITY: math.exp(-of_base / line["tokens"]),
        }
        for line, of_base in zip(lines, base, strict=True)
    ]


def _costs(costs: Any, tokens: int) -> dict[str, float]:
    others = sum(cost.tokens for name, cost in costs.models.items() if name != "base")
    return {
        "base forwards": costs["base"].forwards,
        BASE_TOKENS: costs["base"].tokens / tokens,
        OTHER_TOKENS: others / tokens,
        SECONDS: 128 * costs.seconds / tokens,
    }
