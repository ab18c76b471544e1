"""The mathematics of training, on tensors alone: the loss of preference pairs.

Shapes are written with the legend `batch`; log-probabilities and losses are in nats.
"""

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

LOSS_TYPES = ("sigmoid", "hinge")


def preference_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    beta: float,
    margin: float | Tensor = 0.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    """Loss of preferences with log-probabilities as rewards, per pair.

    With `logits = beta * (log pi_r(chosen | x) - log pi_r(rejected | x)) - margin` it is

    - `"sigmoid"`: `-log sigmoid(logits)`, the negative log-likelihood under Bradley-Terry (arXiv 2410.08193);
    - `"hinge"`: `max(0, 1 - logits)`, which leaves pairs alone that are far enough apart (SLiC-HF, arXiv 2305.10425, in
      the scaled form of RSO, arXiv 2309.06657).

    With both log-probabilities taken less those of a reference, `"sigmoid"` is the loss of DPO (eq. 7 of arXiv
    2305.18290).

    The margin stands inside the sigmoid (eq. 2 of arXiv 2307.09288, eq. 6 of arXiv 2405.14734). Label smoothing is
    the likelihood under labels that are wrong with that probability (conservative DPO, eq. 3 of
    https://ericmitchell.ai/cdpo.pdf): the gradient vanishes where the model is as sure as the labels are right. Weights
    of pairs are for the caller to multiply with.

    Args:
        chosen_logps: `(batch,)`, log-probability of the preferred response, summed over its tokens.
        rejected_logps: `(batch,)`, that of the other response.
        beta: inverse temperature, positive.
        margin: by how much the scaled difference should exceed 0; a number, or `(batch,)` for a margin per pair.
        label_smoothing: probability that a label is flipped, in [0, 0.5); of the sigmoid loss alone.
        loss_type: one of `LOSS_TYPES`.

    Returns:
        `(batch,)`, the loss of each pair.

    Raises:
        ValueError: `loss_type` is another, or the hinge loss is to be smoothed.

    Example:

    ```python
    >>> import torch
    >>> preference_loss(torch.tensor([-2.0]), torch.tensor([-2.0]), beta=0.05).exp()  # undecided: log 2
    tensor([2.])
    >>> preference_loss(torch.tensor([-1.0, -3.0]), torch.tensor([-3.0, -1.0]), beta=1.0)
    tensor([0.1269, 2.1269])
    >>> preference_loss(torch.tensor([-1.0, -3.0]), torch.tensor([-3.0, -1.0]), beta=1.0, loss_type="hinge")
    tensor([0., 3.])

    ```
    """
    check_loss_type(loss_type, label_smoothing, "label_smoothing")
    logits = beta * (chosen_logps - rejected_logps) - margin
    if loss_type == "hinge":
        return relu(1 - logits)
    if label_smoothing == 0:
        return -logsigmoid(logits)
    return -(1 - label_smoothing) * logsigmoid(logits) - label_smoothing * logsigmoid(-logits)


def check_loss_type(loss_type: str, label_smoothing: float, smoothing_name: str) -> None:
    """Refuse a loss that does not exist.

    Args:
        loss_type: see [`preference_loss`].
        label_smoothing: likewise.
        smoothing_name: what the caller's user calls the smoothing.

    Raises:
        ValueError: `loss_type` is none of `LOSS_TYPES`, or the hinge loss is to be smoothed.
    """
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"`loss_type` must be one of {LOSS_TYPES}, got {loss_type!r}.")
    if loss_type == "hinge" and label_smoothing != 0:
        raise ValueError(
            f"`{smoothing_name}` is a probability, which the hinge loss does not have; got {label_smoothing} with "
            "loss_type='hinge'. Set it to 0, or use loss_type='sigmoid'."
        )


def length_normalized(logps: Tensor, lengths: Tensor) -> Tensor:
    """Log-probability per token: the reward of SimPO (eq. 4 of arXiv 2405.14734), where length alone earns nothing.

    The reward that guides decoding is the sum over tokens (arXiv 2410.08193), so that a model trained on the mean is
    guided by another quantity than it was trained on. Such rewards are small: SimPO's beta is 2 to 10, not 0.05.

    Args:
        logps: `(batch,)`, log-probabilities of responses, summed over their tokens.
        lengths: `(batch,)`, their tokens, at least 1 each.

    Returns:
        `(batch,)`, nats per token.

    Example:

    ```python
    >>> import torch
    >>> length_normalized(torch.tensor([-6.0, -6.0]), torch.tensor([2, 3]))
    tensor([-3., -2.])

    ```
    """
    return logps / lengths.to(logps.dtype)
