"""Ready-made systems for [`run`]: a model guided or alone, and any decoder on ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..decoding.guided_model import GuidedModel, guide
from ..guidance import token_logprobs
from ..scoring import evaluating, read_logits, right_pad


def guided(
    model: Any,
    tokenizer: Any,
    reward_models: Any = None,
    alpha: Any = None,
    *,
    keep_ids: bool = False,
    keep_logprobs: bool = False,
    chat_template: Any = False,  # a bool; callers unpack dictionaries of numbers here, which mypy takes for its value
    **generate_kwargs: Any,
) -> "ModelSystem":
    """A model, guided or alone, as a system.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer. Prompts that are lists of messages go through its chat template.
        reward_models: one or several; None: the model alone.
        alpha: as `generate()` takes it. A column `alpha` of rows (`run(..., columns=["alpha"])`) goes before it: a
            number or one a reward model, for each row.
        keep_ids: write `reply_ids` too, the very tokens that were drawn, for log-probabilities later.
        keep_logprobs: write `reply_logprobs` too, nats of each token in the distribution that it was drawn from, with
            temperature and whatever else shapes it; not of beam search.
        chat_template: prompts that are texts go through the tokenizer's chat template too, as what a user says.
        **generate_kwargs: of `generate()`, as `do_sample=True, max_new_tokens=128`.

    Returns:
        a system whose samples also tell `tokens`, the number of tokens drawn, end of text included.
    """
    listed = list(reward_models) if isinstance(reward_models, (list, tuple)) else [reward_models]
    arms = [arm for arm in listed if arm is not None]
    policy = guide(model, arms, **({} if alpha is None else {"alpha": alpha})) if arms else model

    if keep_logprobs and generate_kwargs.get("num_beams", 1) != 1:
        raise ValueError(
            f"`keep_logprobs` is of tokens that are drawn, and not of beam search; got num_beams="
            f"{generate_kwargs['num_beams']}. Leave one of them out."
        )
    asked = {"output_scores": True, "return_dict_in_generate": True} if keep_logprobs else {}
    templates = [getattr(getattr(arm, "config", None), "prompt_template", None) for arm in arms]

    def decode(prompts: list[Any], inputs: dict[str, Tensor], alpha: Sequence[Any] | None) -> Any:
        own: dict[str, Any] = {}
        if arms and alpha is not None:
            own["alpha"] = torch.tensor([_each(one, len(arms)) for one in alpha], dtype=torch.float32)
        if any(templates):
            # a reward model that was trained on prompts in a template of its own reads these in it too
            own["reward_inputs"] = [
                _templated(tokenizer, prompts, one, model.device, chat_template) for one in templates
            ]
        return policy.generate(**inputs, **own, **generate_kwargs, **asked)

    settings = _plain({"model": model, "reward_models": listed if arms else [], "alpha": alpha, **generate_kwargs})
    settings |= {"chat_template": True} if chat_template else {}
    return ModelSystem(model, tokenizer, decode, keep_ids, settings, chat_template)


def from_decoder(
    decode: Callable[..., Tensor],
    model: Any,
    tokenizer: Any,
    reward: Any = None,
    *,
    keep_ids: bool = False,
    **decode_kwargs: Any,
) -> "ModelSystem":
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

    settings = _plain({"decoder": decode, "model": model, "reward": reward, **decode_kwargs})
    return ModelSystem(model, tokenizer, run, keep_ids, settings)


@dataclass(frozen=True)
class ModelSystem:
    """Text in, text out, around a decoder on ids; whatever it draws comes from the seed, and nothing else changes.

    Attributes:
        model: whose device ids go to.
        tokenizer: its tokenizer.
        decode: `decode(prompts, inputs, alpha)` to sequences that begin with `inputs["input_ids"]`; or to these as
            `sequences` of an object with `scores`, a tensor `(batch, vocab)` for each new token, whose softmax it was
            drawn from: samples then have `reply_logprobs`.
        keep_ids: whether samples have `reply_ids`.
        settings: what decides its replies, for the manifest of [`run`].
        chat_template: whether texts go through the tokenizer's chat template.
    """

    model: Any
    tokenizer: Any
    decode: Callable[..., Any]
    keep_ids: bool
    settings: dict[str, Any]
    chat_template: bool = False

    def __call__(self, prompts: list[Any], seed: int, alpha: Sequence[Any] | None = None) -> list[dict[str, Any]]:
        """Reply to a batch of prompts.

        Args:
            prompts: texts or lists of messages.
            seed: that everything is drawn from.
            alpha: for each prompt, a number or one a reward model.

        Returns:
            for each prompt `reply` and `tokens`, and `reply_ids` and `reply_logprobs` where they are kept.
        """
        device = self.model.device
        inputs = encode(self.tokenizer, prompts, device, self.chat_template)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(seed)
            output = self.decode(prompts, inputs, alpha)
        sequences, scores = getattr(output, "sequences", output), getattr(output, "scores", None)
        new = sequences[:, inputs["input_ids"].shape[1] :]
        replies = [drawn_ids(ids, self.model, self.tokenizer) for ids in new.tolist()]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        samples = [{"reply": text, "tokens": len(ids)} for text, ids in zip(texts, replies, strict=True)]
        if self.keep_ids:
            samples = [sample | {"reply_ids": ids} for sample, ids in zip(samples, replies, strict=True)]
        if scores is not None:
            nats = step_logprobs(scores, new).tolist()
            samples = [one | {"reply_logprobs": row[: one["tokens"]]} for one, row in zip(samples, nats, strict=True)]
        return samples


def step_logprobs(scores: Sequence[Tensor], drawn: Tensor) -> Tensor:
    """Log-probabilities in nats of tokens `(batch, length)` by what they were drawn from, `(batch, vocab)` for each.

    Example:
        >>> step_logprobs([torch.tensor([[1.0, 3.0]]).log()], torch.tensor([[1]])).exp()
        tensor([[0.7500]])
    """
    columns = zip(scores, drawn.T, strict=True)
    return torch.stack([step.float().log_softmax(-1).gather(-1, ids[:, None])[:, 0] for step, ids in columns], 1)


def _plain(value: Any) -> Any:
    """A setting as json has it; models and functions by their names."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, Tensor):
        return value.tolist()
    name = getattr(value, "name_or_path", None) or getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else type(value).__name__


def encode(
    tokenizer: Any, prompts: Sequence[Any], device: torch.device | str = "cpu", chat_template: bool = False
) -> dict[str, Tensor]:
    """Prompts as left-padded `input_ids` and `attention_mask`; lists of messages by the tokenizer's chat template.

    Args:
        tokenizer: the model's. It needs no padding token: the mask hides what rows are filled up with.
        prompts: strings or lists of messages.
        device: where the tensors go.
        chat_template: strings go through that template too, as what a user says.
    """
    return _padded(tokenizer, [prompt_ids(tokenizer, prompt, chat_template) for prompt in prompts], device)


def _padded(tokenizer: Any, rows: Sequence[list[int]], device: torch.device | str) -> dict[str, Tensor]:
    width = max(len(row) for row in rows)
    fill = next((one for one in (tokenizer.pad_token_id, tokenizer.eos_token_id) if one is not None), 0)
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def prompt_ids(tokenizer: Any, prompt: Any, chat_template: bool = False, template: str | None = None) -> list[int]:
    """Ids of a prompt.

    Args:
        tokenizer: the model's.
        prompt: a string or a list of messages.
        chat_template: a string goes through the tokenizer's chat template too.
        template: a reward model's own, which a string goes through instead.
    """
    if isinstance(prompt, str) and template is not None:
        return tokenizer(template.format(prompt=prompt))["input_ids"]
    if isinstance(prompt, str) and not chat_template:
        return tokenizer(prompt)["input_ids"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # such templates write special tokens themselves


def _each(alpha: Any, arms: int) -> list[float]:
    """One number for all reward models, or one for each, as one for each."""
    return list(alpha) if isinstance(alpha, (list, tuple)) else [alpha] * arms


def _templated(tokenizer: Any, prompts: list[Any], template: str | None, device: Any, chat_template: bool) -> Any:
    """What a reward model with a prompt template reads; None: what the base reads."""
    if template is None or not any(isinstance(prompt, str) for prompt in prompts):
        return None
    return _padded(tokenizer, [prompt_ids(tokenizer, one, chat_template, template) for one in prompts], device)


def drawn_ids(ids: list[int], model: Any, tokenizer: Any) -> list[int]:
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
    result: list[list[float]] = [[]] * len(lines)
    by_length = sorted(range(len(lines)), key=lambda at: len(lines[at]["reply_ids"]))  # so that little is padding
    for start in range(0, len(lines), batch_size):
        places = by_length[start : start + batch_size]
        batch = [lines[at] for at in places]
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
        for at, row, reply in zip(places, logprobs.tolist(), replies, strict=True):
            result[at] = row[width : width + len(reply)]
    return result
