"""Sampling by stages: a row that has ended leaves the batch, and nothing more is spent on it.

`generate()` goes on with all rows until the last has ended, which in the lab is half as much again as is written.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..playground.preferences import MAX_NEW_TOKENS

SAMPLING = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": True, "top_k": 0}
"""Options of `generate()`: the model's own distribution, at temperature 1."""
Generate = Callable[..., Any]
"""`generate(alpha, **inputs and options of generate())` with `alpha` of shape `(rows, reward models)`, or None."""
_FIRST, _NEXT = 32, 8  # tokens of a stage; hardly a reply is shorter than the first


@torch.no_grad()
def generate_by_stages(
    generate: Generate, inputs: Mapping[str, Tensor], end: int, alpha: Tensor | None = None, **options: Any
) -> Any:
    """What one call of `generate()` would draw, but for the random numbers that go to each row.

    Args:
        generate: the policy's.
        inputs: `input_ids` and `attention_mask`, `(batch, length)`.
        end: id that ends a text.
        alpha: each row's own.
        **options: of `generate()`; the others are `SAMPLING`.

    Returns:
        `sequences`, filled up with `end`, and `scores`, a tensor `(batch, vocab)` for each step, 0 in rows that have
        ended.
    """
    options = SAMPLING | options | {"output_scores": True, "return_dict_in_generate": True}
    limit = options.pop("max_new_tokens")
    ids, mask, cache = inputs["input_ids"], inputs["attention_mask"], None
    rows, scores = torch.arange(len(ids)), list[Tensor]()
    drawn = ids.new_full((len(ids), limit), end)
    while len(rows) and len(scores) < limit:
        most = min(_NEXT if scores else _FIRST, limit - len(scores))
        output = generate(
            alpha, input_ids=ids, attention_mask=mask, past_key_values=cache, max_new_tokens=most, **options
        )
        new = output.sequences[:, ids.shape[1] :]
        drawn[rows, len(scores) : len(scores) + new.shape[1]] = new
        scores += [step.new_zeros(len(drawn), step.shape[1]).index_copy(0, rows, step) for step in output.scores]
        going = (new != end).all(1).nonzero()[:, 0]
        ids, cache, rows = output.sequences[going], output.past_key_values, rows[going]
        mask = pad(mask[going], (0, new.shape[1]), value=1)
        if alpha is not None:
            before, alpha = alpha, alpha[going]
            if not torch.equal(before.any(0), alpha.any(0)):
                cache = None  # holds rows of a reward model that guides none of the texts that go on
        if cache is not None and len(going) < len(new):
            cache.batch_select_indices(going)
    return SimpleNamespace(sequences=torch.cat([inputs["input_ids"], drawn[:, : len(scores)]], 1), scores=scores)
