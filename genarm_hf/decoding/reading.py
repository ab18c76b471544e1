"""One forward seen from the reward models: which tokens they note, and what their opinion does to the logits."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..guidance import combine, mask_columns
from ..vocabulary import align
from .call import GuidedCall
from .guidance_plan import Guidance, alpha_columns
from .reward_reader import RewardReader, to_device
from .shared_backbone import SharedBackbone


@dataclass
class Reading:
    """Positions [start, start + count) of the base's text.

    Attributes:
        guidance: who guides.
        call: the call it belongs to, None outside of `generate()`.
        readers: one per term, None where it is off, or the base, or goes through the base's pass.
        shared: the base's joint pass, if there is one.
        start: first position.
        count: number of tokens.
        useful: per term, on how many of the last positions it has an opinion.
    """

    guidance: Guidance
    call: GuidedCall | None
    readers: list[RewardReader | None]
    shared: SharedBackbone | None
    start: int
    count: int
    useful: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The position behind the last."""
        return self.start + self.count

    def note(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """Hand the new tokens to the readers; a reward model with its own prompt gets the continuation alone.

        Args:
            ids: `(batch, count)`; None for embeddings, which are all prompt.
            mask: `(batch, columns)` of the whole text so far, 1 = token.
        """
        columns = mask_columns(mask, self.start, self.end)
        prompt_length = 0 if self.call is None else self.call.prompt_length
        for reader, prompt in zip(self.readers, self.guidance.prompts, strict=True):
            skipped = 0 if prompt is None else min(max(prompt_length - self.start, 0), self.count)
            unfinished = prompt is not None and prompt_length > self.end
            # behind its own prompt, a reward model can say what the first token should be
            self.useful.append(0 if unfinished else self.count - skipped + (prompt is not None))
            if reader is not None and ids is not None and skipped < self.count:
                reader.extend(ids[:, skipped:], None if columns is None else columns[:, skipped:])

    def guide(self, base_logits: Tensor, opinions: dict[int, Tensor]) -> Tensor:
        """Guided logits of the positions that the base returned.

        Args:
            base_logits: `(batch, kept, vocab)` of the last `kept` positions.
            opinions: reward models' logits that a joint pass has already given, by index.
        """
        kept, vocab = base_logits.shape[1:]
        alphas = self.alphas(kept, base_logits.device)
        # a joint pass has read the prompt too, which says nothing where a reward model has one of its own
        opinions = {i: logits[:, -self.useful[i] :] for i, logits in opinions.items() if self.useful[i] > 0}
        for index, (term, alpha) in enumerate(zip(self.guidance.terms, alphas, strict=True)):
            if term.is_base and (isinstance(alpha, Tensor) or alpha != 0):
                opinions[index] = base_logits
        # every forward is queued before any result is moved, so that devices work side by side
        for index, (reader, useful, alpha) in enumerate(zip(self.readers, self.useful, alphas, strict=True)):
            if reader is not None and useful > 0 and (isinstance(alpha, Tensor) or alpha != 0):
                opinions[index] = reader.logits(min(kept, useful))
        device = base_logits.device
        logprobs = [
            as_logprobs(opinions[i], device, vocab, kept) if i in opinions else None for i in range(len(alphas))
        ]
        return combine(base_logits, logprobs, alphas)

    def alphas(self, kept: int, device: torch.device) -> list[float | Tensor]:
        """Per term the alpha of the last `kept` positions: a float or `(batch, kept | 1, 1)`."""
        expand, prompt_length = (1, 1) if self.call is None else (self.call.expand, self.call.prompt_length)
        schedule = self.guidance.alpha
        if not callable(schedule):
            return self.guidance.columns(expand, device)
        steps = [max(position + 1 - prompt_length, 0) for position in range(self.end - kept, self.end)]
        values = [schedule(step) for step in steps]
        return alpha_columns(torch.stack(torch.broadcast_tensors(*values), 1), expand, device)


def as_logprobs(logits: Tensor, device: torch.device, vocab: int, kept: int) -> Tensor:
    """Logits as log-probabilities `(batch, kept, vocab)` on the base's device; 0 where there is no opinion."""
    logprobs = align(to_device(logits, device).log_softmax(-1, dtype=torch.float32), vocab)
    missing = kept - logprobs.shape[1]
    return torch.nn.functional.pad(logprobs, (0, 0, missing, 0)) if missing else logprobs
