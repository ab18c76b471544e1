"""Token rewards of what was generated: `output_rewards=True`."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..guidance import token_logprobs
from .reward_reader import RewardReader

if TYPE_CHECKING:
    from .call import GuidedCall
    from .guidance_plan import Term

# logits of one scoring forward, in elements: 1 GiB of float32
_MAX_LOGITS = 2**28


@torch.no_grad()
def generated_rewards(call: "GuidedCall", sequences: Tensor, end_ids: tuple[list[int], int | None]) -> Tensor:
    """Rewards of generated tokens, by reading the finished sequences once.

    One parallel forward per reward model after the loop is exact for every mode alike: beams that died, drafts that
        were rejected
    and padding leave no trace in it.

    Args:
        call: the finished call.
        sequences: `(sequences, prompt + new_tokens)` ids that `generate()` returned.
        end_ids: ids that end a sequence, and the one that pads it.

    Returns:
        float32 `(arms, sequences, new_tokens)`: log pi_i in nats, for an implicit reward a difference of two; 0 behind
            a sequence's end.
    """
    prompt_ids = call.prompt_ids
    assert prompt_ids is not None
    new = sequences[:, prompt_ids.shape[1] :]
    times = sequences.shape[0] // prompt_ids.shape[0]
    said = [_rewards(call, term, new, times) for term in call.guidance.terms]
    rewards = torch.stack(call.guidance.given(said))
    return rewards.masked_fill(~_generated(new, *end_ids), 0.0)


def _rewards(call: "GuidedCall", term: "Term", new: Tensor, times: int) -> Tensor:
    own = None if term.prompt is None else term.prompt.expanded(times)
    reader = RewardReader.open(term.model, use_cache=False, prompt=own, base_vocab=sys.maxsize)
    if own is None:
        prompt_ids = call.prompt_ids
        assert prompt_ids is not None
        if prompt_ids.shape[1] != call.prompt_length and any(call.guidance.active):
            raise ValueError(
                "`output_rewards=True` needs the whole text: pass all `input_ids`, not only those behind "
                "`past_key_values`."
            )
        mask = None if call.prompt_mask is None else call.prompt_mask[:: call.expand].repeat_interleave(times, 0)
        reader.extend(prompt_ids.repeat_interleave(times, 0), mask)
    reader.extend(new, None)
    rows = max(1, _MAX_LOGITS // (max(new.shape[1], 1) * reader.vocab))
    scored = [_score_rows(reader, new.shape[1], slice(row, row + rows)) for row in range(0, new.shape[0], rows)]
    # a token the reward model does not have is one it could not have produced
    return torch.cat(scored).to(new.device).masked_fill(new >= reader.vocab, -torch.inf)


def _score_rows(reader: RewardReader, count: int, rows: slice) -> Tensor:
    """Log-probabilities `(rows, count)` of the last `count` tokens."""
    part = replace(
        reader,
        pending=None if reader.pending is None else reader.pending[rows],
        mask=None if reader.mask is None else reader.mask[rows],
    )
    assert part.pending is not None
    return token_logprobs(part.logits(count + 1), part.pending[:, -count - 1 :])[:, 1:]


def _generated(new: Tensor, eos: list[int], pad: int | None) -> Tensor:
    """Which tokens were generated: all up to the first end of sequence, and no padding behind a stop string."""
    if not new.shape[1]:
        return torch.ones_like(new, dtype=torch.bool)
    ends = torch.isin(new, torch.tensor(eos, device=new.device)) if eos else torch.zeros_like(new, dtype=torch.bool)
    alive = (ends.long().cumsum(-1) - ends.long()) == 0
    if pad is None or not eos:
        return alive
    padding = (new == pad).flip(-1).long().cumprod(-1).flip(-1).bool()
    # an end of sequence that is also the padding counts once, where it first stands
    return alive & ~(padding & ~ends)
