"""What a system costs: forwards, rows and tokens of each of its models, and seconds, whatever runs them.

Counted by a hook over all modules, not on the models: hooks on a base would make reward models on its weights leave its
pass, so that counting would change what is counted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import unwrap
from ..decoding.shared_backbone import models_of


@dataclass
class ModelCost:
    """What one model was asked for.

    Attributes:
        forwards: passes of its own, each of which reads all its weights; a base's joint passes are among them.
        joint: passes in which its rows went along with a base's, through the base's weights.
        rows: texts fed, summed over passes.
        tokens: ids fed, padding included, summed over passes: what computing costs.
    """

    forwards: int = 0
    joint: int = 0
    rows: int = 0
    tokens: int = 0

    def add(self, rows: int, length: int, joint: bool) -> None:
        """One more pass over `rows` texts of `length` new ids."""
        self.forwards += not joint
        self.joint += joint
        self.rows += rows
        self.tokens += rows * length


@dataclass
class Costs:
    """What [`counting`] found; complete when its block has ended.

    Attributes:
        models: cost by the name that a model was given.
        seconds: of the block, on the clock.
    """

    models: dict[str, ModelCost] = field(default_factory=dict)
    seconds: float = 0.0

    def __getitem__(self, name: str) -> ModelCost:
        return self.models[name]

    def to_dict(self) -> dict[str, Any]:
        """Ready for json."""
        return asdict(self)


@contextmanager
def counting(**models: Any) -> Iterator[Costs]:
    """Count what models are asked for inside of a block, by all threads.

    Forwards inside of `generate()` count like any others, guided or not: every reward model's, and both those of a base
    and of reward models that go through its weights in one pass. An encoder-decoder counts its decoder's ids. What a
    compiled call runs (static caches) is not seen: count without compiling.

    Args:
        **models: a name for each model: reward models, causal LMs, classifiers, PEFT models of these.

    Raises:
        TypeError: something is no module.
        ValueError: nothing is named, or one model twice (two adapters in one PEFT model, say).

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=16, hidden_size=64, intermediate_size=8, num_hidden_layers=1)
        >>> model = LlamaForCausalLM(config)
        >>> with counting(base=model) as costs:
        ...     _ = model(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        >>> costs["base"]
        ModelCost(forwards=1, joint=0, rows=2, tokens=6)
    """
    computing = {name: _computing(model, name) for name, model in models.items()}
    names = {id(module): name for name, module in computing.items()}
    if not models or len(names) < len(models):
        raise ValueError(f"Name each model once, and at least one; got {list(models)} for {len(names)} model(s).")
    costs = Costs({name: ModelCost() for name in models})
    kinds = {type(module) for module in computing.values()}

    def count(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if type(module) in kinds:  # all others, layers and all, are done with here
            _count(costs, names, module, args, kwargs)

    handle = nn.modules.module.register_module_forward_hook(count, with_kwargs=True)
    started = _now()
    try:
        yield costs
    finally:
        costs.seconds = _now() - started
        handle.remove()


def _count(costs: Costs, names: dict[int, str], module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    rows, length = _shape(args, kwargs)
    streams = models_of(module)
    for index, model in enumerate(streams):
        if id(model) in names:
            costs[names[id(model)]].add(rows // len(streams), length, joint=index > 0)


def _computing(model: Any, name: str) -> nn.Module:
    """The transformers model inside whatever wraps it, whose forward is called once a pass."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if getattr(getattr(model, "config", None), "model_type", None) == "genarm":
        model = model.backbone
    model = unwrap(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{name}` must be a model, got {type(model).__name__}.")
    return model


def _shape(args: tuple, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and new positions of a forward."""
    for given in (kwargs.get("decoder_input_ids"), kwargs.get("input_ids"), *args[:1], kwargs.get("inputs_embeds")):
        if isinstance(given, Tensor):
            return given.shape[0], given.shape[1]
    return 0, 0


def _now() -> float:
    """The clock, once everything that was asked of accelerators is done."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
