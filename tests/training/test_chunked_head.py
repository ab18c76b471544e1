"""Log-probabilities in chunks are those of all logits at once, in both directions and for every kind of head."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from genarm_hf.training.chunked_head import LogitTransform, token_logprobs_from_hidden

TOKENS, HIDDEN, VOCAB = 11, 6, 17
TRANSFORMS = {
    "none": LogitTransform(),
    "scale": LogitTransform(scale=0.3),
    "softcap": LogitTransform(softcap=1.5),
    "both": LogitTransform(scale=2.0, softcap=0.7),
}


class _Wrapped(nn.Module):
    """A head that can only be called."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden)


def _head(kind: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Linear]:
    torch.manual_seed(0)
    linear = nn.Linear(HIDDEN, VOCAB, bias="bias" in kind, dtype=dtype)
    nn.init.normal_(linear.weight, std=1.5)
    linear.requires_grad_("frozen" not in kind)
    return (_Wrapped(linear) if "wrapped" in kind else linear), linear


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    return hidden, targets, torch.randn(TOKENS, generator=generator, dtype=dtype)


def _reference(hidden: Tensor, targets: Tensor, linear: nn.Linear, transform: LogitTransform) -> Tensor:
    logits = transform.scale * linear(hidden)
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return logits.log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("kind", ["frozen", "frozen bias", "trained", "trained bias", "wrapped frozen", "wrapped bias"])
@pytest.mark.parametrize("transform", list(TRANSFORMS))
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_values_and_gradients(kind: str, transform: str, chunk: int) -> None:
    head, linear = _head(kind)
    hidden, targets, weights = _inputs()
    wanted = [hidden, *(p for p in linear.parameters() if p.requires_grad)]
    expected = _reference(hidden, targets, linear, TRANSFORMS[transform])
    found = token_logprobs_from_hidden(hidden, targets, head, TRANSFORMS[transform], chunk)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((logps * weights).sum(), wanted) for logps in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_a_token_may_be_predicted_from_one_state_twice() -> None:
    """As the first tokens of both responses are, from the prompt's last one."""
    head, _ = _head("frozen")
    hidden, *_ = _inputs()
    states = hidden[:1].expand(2, -1)
    token_logprobs_from_hidden(states, torch.tensor([3, 5]), head).sum().backward()
    (expected,) = torch.autograd.grad((head(hidden[0]).log_softmax(-1)[[3, 5]]).sum(), hidden)
    torch.testing.assert_close(hidden.grad, expected)


@pytest.mark.parametrize("kind", ["frozen", "trained", "wrapped"])
def test_half_precision_is_as_good_as_the_plain_way(kind: str) -> None:
    head, linear = _head(kind, torch.bfloat16)
    hidden, targets, _ = _inputs(torch.bfloat16)
    found = token_logprobs_from_hidden(hidden, targets, head)
    assert found.dtype == torch.float32
    plain = linear(hidden).float().log_softmax(-1)[torch.arange(TOKENS), targets]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(logps.sum(), hidden)[0] for logps in (found, plain)]
    torch.testing.assert_close(*gradients, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", ["frozen", "trained", "wrapped"])
def test_autocast_computes_in_its_precision(kind: str) -> None:
    head, linear = _head(kind, torch.float32)
    hidden, targets, _ = _inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_logprobs_from_hidden(hidden, targets, head)
        plain = linear(hidden).float().log_softmax(-1)[torch.arange(TOKENS), targets]
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.float32


class _Largest(TorchDispatchMode):
    """Most elements of any tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else [result]:
            # views and casts of the weights are not logits
            if isinstance(item, Tensor) and item._base is None:
                self.elements = max(self.elements, item.numel())
        return result


@pytest.mark.parametrize("kind", ["frozen", "trained", "wrapped"])
def test_no_more_logits_than_a_chunk_exist(kind: str) -> None:
    vocab, tokens, chunk = 512, 64, 4
    head: nn.Module = nn.Linear(2, vocab, bias=False).requires_grad_("frozen" not in kind)
    head = _Wrapped(head) if kind == "wrapped" else head  # type: ignore[arg-type]
    hidden, targets = torch.randn(tokens, 2, requires_grad=True), torch.randint(vocab, (tokens,))
    with _Largest() as seen:
        token_logprobs_from_hidden(hidden, targets, head, chunk=chunk).sum().backward()
    assert seen.elements <= chunk * vocab
    with _Largest() as seen:
        head(hidden).log_softmax(-1)
    assert seen.elements == tokens * vocab  # what the measure would have said of the plain way


def test_without_gradients_none_are_computed() -> None:
    head, _ = _head("frozen")
    hidden, targets, _ = _inputs()
    products = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            products.extend([func] if "mm" in str(func) else [])
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Count():
        token_logprobs_from_hidden(hidden, targets, head, chunk=TOKENS)
    assert len(products) == 1
    with Count():
        token_logprobs_from_hidden(hidden, targets, head, chunk=TOKENS).sum().backward()
    assert len(products) == 1 + 2  # a frozen head is read twice in all, not three times


def test_transforms_of_configurations() -> None:
    from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig

    assert LogitTransform.of(LlamaConfig()) == LogitTransform()
    assert LogitTransform.of(Gemma2Config()) == LogitTransform(softcap=30.0)
    assert LogitTransform.of(CohereConfig()) == LogitTransform(scale=0.0625)
    assert LogitTransform.of(GraniteConfig(logits_scaling=8.0)) == LogitTransform(scale=0.125)
