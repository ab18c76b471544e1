"""Ready-made systems for [`run`]: a model guided or alone, and any decoder on ids."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..decoding.guided_model import GuidedModel, guide
from ..guidance import token_logprobs
from ..scoring import evaluating, read_logits, right_pad
from .runner import System


def guided(
    model: Any,
    tokenizer: Any,
    reward_models: Any = None,
    alpha: Any = None,
    *,
    keep_ids: bool = False,
    **generate_kwargs: Any,
) -> System:
    """A model, guided or alone, as a system.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer. Prompts that are lists of messages go through its chat template.
        reward_models: one or several; None: the model alone.
        alpha: as `generate()` takes it. A column `alpha` of rows (`run(..., columns=["alpha"])`) goes before it: a
            number or one a reward model, for each row.
        keep_ids: write `reply_ids` too, the very tokens that were drawn, for log-probabilities later.
        **generate_kwargs: of `generate()`, as `do_sample=True, max_new_tokens=128`.

    Returns:
        a system whose samples also tell `tokens`, the number of tokens drawn, end of text included.
    """
    listed = list(reward_models) if isinstance(reward_models, (list, tuple)) else [reward_models]
    arms = [arm for arm in listed if arm is not None]
    policy = guide(model, arms, **({} if alpha is None else {"alpha": alpha})) if arms else model

    templates = [getattr(getattr(arm, "config", None), "prompt_template", None) for arm in arms]

    def decode(prompts: list[Any], inputs: dict[str, Tensor], alpha: Sequence[Any] | None) -> Tensor:
        own: dict[str, Any] = {}
        if arms and alpha is not None:
            own["alpha"] = torch.tensor(alpha, dtype=torch.float32).reshape(len(alpha), -1).expand(-1, len(arms))
        if any(templates):
            # a reward model that was trained on prompts in a template of its own reads these in it too
            own["reward_inputs"] = [_templated(tokenizer, prompts, one, model.device) for one in templates]
        return policy.generate(**inputs, **own, **generate_kwargs)

    return _system(model, tokenizer, decode, keep_ids)


def from_decoder(
    decode: Callable[..., Tensor],
    model: Any,
    tokenizer: Any,
    reward: Any = None,
    *,
    keep_ids: bool = False,
    **decode_kwargs: Any,
) -> System:
    """A decoder on ids as a system, as `genarm_hf.baselines` has them.

    Args:
        decode: `decode(model, reward, input_ids, attention_mask, **decode_kwargs)` to sequences `(batch, length)` that
            begin with the left-padded prompts, as those of `generate()` do. It draws from torch's global generator.
        model: the base.
        tokenizer: its tokenizer.
        reward: handed to `decode`.
        keep_ids: as in [`guided`].
        **decode_kwargs: handed to `decode`, as `max_new_tokens=128`.
    """

    def run(prompts: list[Any], inputs: dict[str, Tensor], alpha: Sequence[Any] | None) -> Tensor:
        own = {} if alpha is None else {"alpha": alpha}
        return decode(model, reward, inputs["input_ids"], inputs["attention_mask"], **own, **decode_kwargs)

    return _system(model, tokenizer, run, keep_ids)


def _system(model: Any, tokenizer: Any, decode: Callable[..., Tensor], keep_ids: bool) -> System:
    """Text in, text out, around a decoder on ids; whatever it draws comes from the seed, and nothing else changes."""

    def system(prompts: list[Any], seed: int, alpha: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        inputs = encode(tokenizer, prompts, model.device)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed)
            sequences = decode(prompts, inputs, alpha)
        replies = [_drawn(ids, model, tokenizer) for ids in sequences[:, inputs["input_ids"].shape[1] :].tolist()]
        texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
        ids = [{"reply_ids": reply} if keep_ids else {} for reply in replies]
        return [
            {"reply": text, "tokens": len(reply)} | own for text, reply, own in zip(texts, replies, ids, strict=True)
        ]

    return system


def encode(tokenizer: Any, prompts: Sequence[Any], device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Prompts as left-padded `input_ids` and `attention_mask`; lists of messages by the tokenizer's chat template.

    Args:
        tokenizer: the model's. It needs no padding token: the mask hides what rows are filled up with.
        prompts: strings or lists of messages.
        device: where the tensors go.
    """
    # templates write special tokens themselves
    rows = [
        tokenizer(prompt)["input_ids"]
        if isinstance(prompt, str)
        else tokenizer(_chat(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        for prompt in prompts
    ]
    width = max(len(row) for row in rows)
    fill = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def _chat(tokenizer: Any, messages: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _templated(tokenizer: Any, prompts: list[Any], template: str | None, device: torch.device) -> Any:
    """What a reward model with a prompt template reads; None: what the base reads."""
    if template is None or not all(isinstance(prompt, str) for prompt in prompts):
        return None
    return encode(tokenizer, [template.format(prompt=prompt) for prompt in prompts], device)


def _drawn(ids: list[int], model: Any, tokenizer: Any) -> list[int]:
    """What was drawn: up to the first end of text, itself included; what follows fills rows up."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])}
    for place, one in enumerate(ids):
        if one in ends:
            return ids[: place + 1]
    while ids and ids[-1] == tokenizer.pad_token_id:  # ended by a stop string
        ids = ids[:-1]
    return ids


@torch.no_grad()
def reply_logprobs(model: Any, tokenizer: Any, lines: Sequence[Any], batch_size: int = 16) -> list[list[float]]:
    """Log-probability of every token of replies that were written with `keep_ids=True`.

    With those of the policy that drew them and those of its base, [`log_ratios`] estimates their divergence.

    Args:
        model: a causal LM, a guided model (see [`guide`]) or a reward model.
        tokenizer: the one that they were drawn with.
        lines: of [`run`], with `prompt` and `reply_ids`.
        batch_size: replies at once.

    Returns:
        nats of each token of each reply.
    """
    result = []
    for start in range(0, len(lines), batch_size):
        batch = lines[start : start + batch_size]
        replies = [line["reply_ids"] for line in batch]
        prompts = encode(tokenizer, [line["prompt"] for line in batch], model.device)
        width = prompts["input_ids"].shape[1]
        ids, mask, _ = right_pad([(reply, 0) for reply in replies], model.device)
        ids = torch.cat([prompts["input_ids"], ids], 1)
        mask = torch.cat([prompts["attention_mask"], mask], 1)
        with evaluating(model):
            if isinstance(model, GuidedModel):
                logprobs = model.token_logprobs(ids, mask)
            else:
                logprobs = token_logprobs(read_logits(model, ids, mask, ids.shape[1]), ids)
        result += [row[width : width + len(reply)] for row, reply in zip(logprobs.tolist(), replies, strict=True)]
    return result
