"""Worlds small enough to enumerate: every distribution over all texts of a length, exactly.

Texts of `length` tokens over `vocab` ids are in lexicographic order, `(texts,)` with `texts = vocab**length`. A
language model is its tables of next-token log-probabilities, one a position: `tables[t]` is `(vocab**t, vocab)`, a row
a prefix, prefixes in lexicographic order too. Log-probabilities are in nats.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Tables = list[Tensor]


def random_tables(vocab: int, length: int, seed: int, scale: float = 1.0) -> Tables:
    """A random language model: independent normal logits of standard deviation `scale`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(vocab**t, vocab) for t in range(length)]
    return [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).log_softmax(-1) for s in shapes]


def text_logprobs(tables: Sequence[Tensor]) -> Tensor:
    """Log-probability of every text, `(texts,)`: the sum over its tokens.

    Example:

    ```python
    >>> coin = torch.tensor([[0.25, 0.75]]).log()
    >>> text_logprobs([coin, coin.expand(2, 2)]).exp()
    tensor([0.0625, 0.1875, 0.1875, 0.5625])

    ```
    """
    total = tables[0].new_zeros(1)
    for table in tables:
        total = (total[:, None] + table).flatten()
    return total


def conditionals(log_weights: Tensor, vocab: int, length: int) -> Tables:
    """Tables of the distribution over texts that is proportional to `exp(log_weights)`.

    Example:

    ```python
    >>> tables = conditionals(torch.tensor([0.0625, 0.1875, 0.1875, 0.5625]).log(), vocab=2, length=2)
    >>> tables[0].exp(), tables[1].exp()
    (tensor([[0.2500, 0.7500]]), tensor([[0.2500, 0.7500],
            [0.2500, 0.7500]]))

    ```
    """
    tables = []
    for _ in range(length):
        log_weights = log_weights.view(-1, vocab)
        tables.append(log_weights.log_softmax(-1))
        log_weights = log_weights.logsumexp(-1)
    return tables[::-1]


def guided(base: Sequence[Tensor], arm: Sequence[Tensor], alpha: float) -> Tables:
    """The decoding rule: every next-token distribution is `base * arm**alpha`, normalised by itself."""
    return [(b + alpha * a).log_softmax(-1) for b, a in zip(base, arm, strict=True)]


def reweighted(log_base: Tensor, rewards: Tensor, alpha: float) -> Tensor:
    """`base * exp(alpha * reward)`, normalised over all texts: with the true reward, the optimum of the objective.

    Args:
        log_base: `(texts,)`.
        rewards: `(texts,)`; an ARM's is its log-probability of the text.
        alpha: inverse of the KL term's weight.
    """
    return (log_base + alpha * rewards).log_softmax(-1)


def kl(log_p: Tensor, log_q: Tensor) -> float:
    """`KL(p || q)` over texts, in nats."""
    return float((log_p.exp() * (log_p - log_q)).sum().clamp(min=0))


def exact_arm(base: Sequence[Tensor], rewards: Tensor, alpha: float) -> Tables:
    """The ARM whose guidance, token by token, gives the optimum of a reward: `(optimum / base)**(1 / alpha)`.

    It exists for every reward of whole texts, which is what arXiv 2410.08193 proves (its theorem on expressiveness).
    """
    vocab, length = base[0].shape[-1], len(base)
    optimum = conditionals(reweighted(text_logprobs(base), rewards, alpha), vocab, length)
    return [((o - b) / alpha).log_softmax(-1) for o, b in zip(optimum, base, strict=True)]


def preferences(log_base: Tensor, rewards: Tensor) -> Tensor:
    """`(texts, texts)`, the probability that a pair drawn from the base has the first text chosen over the second.

    Infinitely many pairs, that is, labelled by Bradley and Terry's model with the true reward. Sums to 1.
    """
    base = log_base.exp()
    return 2 * base[:, None] * base * (rewards[:, None] - rewards).sigmoid()


def sampled(preferences: Tensor, pairs: int, seed: int) -> Tensor:
    """The same of finitely many pairs: shares among `pairs` draws."""
    generator = torch.Generator().manual_seed(seed)
    drawn = preferences.flatten().multinomial(pairs, replacement=True, generator=generator)
    return torch.bincount(drawn, minlength=preferences.numel()).view_as(preferences).to(preferences) / pairs


def preference_loss(rewards: Tensor, preferences: Tensor) -> float:
    """`E[-log sigmoid(reward of the chosen - reward of the rejected)]`, exactly; see [`preference_gradient`]."""
    return float(-(preferences * logsigmoid(rewards[:, None] - rewards)).sum())


def preference_gradient(rewards: Tensor, preferences: Tensor) -> Tensor:
    """Gradient of [`preference_loss`] in the rewards.

    Args:
        rewards: `(texts,)`.
        preferences: `(texts, texts)`, probability of each pair of a chosen and a rejected text.

    Returns:
        `(texts,)`.
    """
    surprise = preferences * (rewards - rewards[:, None]).sigmoid()
    return surprise.sum(0) - surprise.sum(1)
