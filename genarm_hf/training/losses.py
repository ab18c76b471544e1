"""The mathematics of training, on tensors alone: log-probabilities of responses and the loss of preference pairs.

Shapes are written with the legend `batch`, `length`, `vocab`; log-probabilities and losses are in nats.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    beta: float,
    margin: float | Tensor = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of preferences under Bradley-Terry, with log-probabilities as rewards, per pair.

    `-log sigmoid(beta * (log pi_r(chosen | x) - log pi_r(rejected | x)))`, arXiv 2410.08193.
    A margin is subtracted inside the sigmoid (eq. 2 of arXiv 2307.09288, eq. 6 of arXiv 2405.14734). Label smoothing is
    the likelihood under labels that are wrong with that probability (conservative DPO, eq. 3 of
    https://ericmitchell.ai/cdpo.pdf): the gradient vanishes where the model is as sure as the labels are right.

    Args:
        chosen_logps: `(batch,)`, log-probability of the preferred response, summed over its tokens.
        rejected_logps: `(batch,)`, that of the other response.
        beta: inverse temperature, positive.
        margin: by how much the scaled difference should exceed 0; a number, or `(batch,)` for a margin per pair.
        label_smoothing: probability that a label is flipped, in [0, 0.5).

    Returns:
        `(batch,)`, the loss of each pair.

    Example:

    ```python
    >>> preference_loss(torch.tensor([-2.0]), torch.tensor([-2.0]), beta=0.05).exp()  # undecided: log 2
    tensor([2.])
    >>> preference_loss(torch.tensor([-1.0, -3.0]), torch.tensor([-3.0, -1.0]), beta=1.0)
    tensor([0.1269, 2.1269])

    ```
    """
    logits = beta * (chosen_logps - rejected_logps) - margin
    if label_smoothing == 0:
        return -logsigmoid(logits)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def response_logprobs(logits: Tensor, input_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Log-probability of each response: the sum over its tokens (arXiv 2410.08193).

    Only positions that predict a response token are normalised, in float32.

    Args:
        logits: `(batch, kept, vocab)`; row t predicts token t + 1. All positions (`kept = length`), or only the last
            `kept` ones, which must start no later than the position before the first response token.
        input_ids: `(batch, length)`.
        response_mask: `(batch, length)`, 1 for the tokens of the response, 0 for prompt and padding.

    Returns:
        `(batch,)` in nats, float32 (float64 for float64 logits).

    Example:

    ```python
    >>> logits = torch.zeros(1, 4, 8)  # every token has probability 1/8
    >>> response_logprobs(logits, torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1]])).exp()
    tensor([0.0156])

    ```
    """
    # logits at t predict token t + 1, and the last ones predict what lies behind the end
    start = input_ids.shape[1] - logits.shape[1] + 1
    predicted = response_mask[:, start:].bool()
    targets = input_ids[:, start:][predicted]
    predictions = logits[:, :-1][predicted]
    predictions = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    token_logps = predictions.gather(-1, targets[:, None]).squeeze(-1) - predictions.logsumexp(-1)
    # masked_scatter and not index_add: the same order of summation on every device and in every run
    return torch.zeros_like(predicted, dtype=token_logps.dtype).masked_scatter(predicted, token_logps).sum(-1)
