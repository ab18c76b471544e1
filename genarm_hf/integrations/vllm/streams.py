"""A model of vLLM's on several streams of rows: the base's, and one for each LoRA reward model on the base's weights.

Rows are `[base | reward model 1 | ...]`, each of as many tokens as vLLM has scheduled. Weights are held, and read,
once; keys and values are each stream's own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import PACKED, Adapter, layer_of

# ---------------------------------------------------------------------- attention


class StreamedAttention(nn.Module):
    """One attention layer of vLLM's for each stream.

    vLLM's metadata is of the tokens it has scheduled, so each layer has to see the rows of its stream alone.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.streams = nn.ModuleList(layers)

    def forward(self, *states: Tensor) -> Tensor:
        """Queries, keys and values `(streams * tokens, ...)` in, the layers' outputs one below the other out."""
        rows = zip(*(state.chunk(len(self.streams)) for state in states), strict=True)
        return torch.cat([layer(*own) for layer, own in zip(self.streams, rows, strict=True)])


def separate_attention(model: nn.Module, arms: int, cache_config: Any) -> None:
    """Give each reward model attention layers of its own. They register themselves, so vLLM pages them with the rest.

    Args:
        model: the base, while vLLM builds it; changed in place.
        arms: how many reward models there are.
        cache_config: the base's.
    """
    from vllm.model_executor.layers.attention import Attention

    for name, layer in [item for item in model.named_modules() if isinstance(item[1], Attention)]:
        own = [
            Attention(
                layer.num_heads,
                layer.head_size,
                layer.impl.scale,
                num_kv_heads=layer.num_kv_heads,
                cache_config=cache_config,
                per_layer_sliding_window=layer.sliding_window,
                prefix=f"arm{index}.{layer.layer_name}",
            )
            for index in range(arms)
        ]
        model.set_submodule(name, StreamedAttention([layer, *own]))


# ---------------------------------------------------------------------- low-rank terms


class Terms(nn.Module):
    """The low-rank terms of one layer of vLLM's.

    Args:
        streams: the base's and those of the reward models.
        split_input: whether processes of tensor parallelism have each a part of the layer's input.
    """

    def __init__(self, streams: int, split_input: bool) -> None:
        super().__init__()
        self.streams, self.split_input = streams, split_input
        self.weights = nn.ParameterList()
        self._places: list[tuple[int, int]] = []

    def append(self, stream: int, down: Tensor, up: Tensor, start: int) -> None:
        """Add a term.

        Args:
            stream: whose rows get it; 0 is the base's.
            down: `(rank, in)`.
            up: `(out, rank)`, scaling included.
            start: the first of the layer's outputs that it is added to.
        """
        self._places.append((stream, start))
        self.weights += [nn.Parameter(matrix, requires_grad=False) for matrix in (down, up)]

    def add(self, x: Tensor, output: Tensor) -> None:
        """Add the terms to what the layer made of `x`, in place: the output is its own."""
        inputs, outputs = x.chunk(self.streams), output.chunk(self.streams)
        for index, (stream, start) in enumerate(self._places):
            down, up = self.weights[2 * index], self.weights[2 * index + 1]
            hidden = self._whole(nn.functional.linear(inputs[stream], down))
            outputs[stream].narrow(-1, start, len(up)).add_(nn.functional.linear(hidden, up))

    def _whole(self, hidden: Tensor) -> Tensor:
        if not self.split_input:
            return hidden
        from vllm.distributed import tensor_model_parallel_all_reduce

        return tensor_model_parallel_all_reduce(hidden)


def add_terms(model: nn.Module, adapters: Sequence[tuple[Adapter, dict[str, Tensor]]]) -> set[str]:
    """Put the adapters into a model, each on the rows of its stream. Those of an earlier call are replaced.

    Args:
        model: the base, on its device; changed in place.
        adapters: in the order of their streams, with the tensors of their files.

    Returns:
        names of the new parameters.

    Raises:
        ValueError: an adapter does not fit the base.
    """
    found: dict[str, Terms] = {}
    for stream, (adapter, tensors) in enumerate(adapters, start=1):
        for name, down, up in _pairs(tensors):
            try:
                place, layer, part = _find(model, name)
                terms = found.setdefault(place, Terms(len(adapters) + 1, _splits_input(layer)))
                terms.append(stream, *_own_share(layer, part, down, up * adapter.scaling(name, len(down))))
            except (AttributeError, _Misfit) as error:
                raise ValueError(f"An adapter of {adapter.base!r} does not fit it at {name}: {error}.") from error
    for place, terms in found.items():
        layer = model.get_submodule(place)
        if not hasattr(layer, "genarm_terms"):
            layer.register_forward_hook(_add_to_output)
        layer.genarm_terms = terms
    return {f"{place}.genarm_terms.{key}" for place, terms in found.items() for key, _ in terms.named_parameters()}


class _Misfit(Exception):
    """A matrix has another shape than its layer."""


def _add_to_output(layer: Any, args: tuple[Tensor, ...], output: Any) -> None:
    layer.genarm_terms.add(args[0], output[0] if isinstance(output, tuple) else output)


def _pairs(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    by_layer: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        layer, side = layer_of(key)
        by_layer.setdefault(layer, {})[side] = tensor
    yield from ((layer, sides["A"], sides["B"]) for layer, sides in by_layer.items())


def _find(model: nn.Module, name: str) -> tuple[str, Any, str | int | None]:
    """Name of vLLM's layer, the layer, and vLLM's name of the slice of it; None for all of it."""
    parent, _, leaf = name.rpartition(".")
    packed, part = PACKED.get(leaf, (leaf, None))
    place = f"{parent}.{packed}"
    return place, model.get_submodule(place), part


def _splits_input(layer: Any) -> bool:
    return layer.tp_size > 1 and hasattr(layer, "input_is_parallel")


def _own_share(layer: Any, part: Any, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor, int]:
    """This process's share of a term, cut by vLLM's own loaders of the layer; and where its outputs start."""
    expected = (layer.input_size, _outputs(layer, part))
    if (down.shape[1], up.shape[0]) != expected or down.shape[0] != up.shape[1]:
        raise _Misfit(f"A {tuple(down.shape)} and B {tuple(up.shape)} on a layer of {expected}")
    sizes = layer.output_partition_sizes
    index = {"q": 0, "k": 1, "v": 2}.get(part, part)
    start, stop = (0, sum(sizes)) if part is None else (sum(sizes[:index]), sum(sizes[: index + 1]))
    whole = _cut(layer, up, (sum(sizes), up.shape[1]), {"output_dim": 0}, () if part is None else (part,))
    if _splits_input(layer):
        down = _cut(layer, down, (len(down), layer.input_size_per_partition), {"input_dim": 1}, ())
    return down.to(layer.weight), whole[start:stop].clone(), start


def _outputs(layer: Any, part: Any) -> int:
    """Outputs of a layer, or of a slice of it, in all processes together."""
    if hasattr(layer, "total_num_kv_heads"):
        heads = {"q": layer.total_num_heads, "k": layer.total_num_kv_heads, "v": layer.total_num_kv_heads}
        return layer.head_size * (sum(heads.values()) if part is None else heads[part])
    return layer.output_size if part is None else layer.output_sizes[part]


def _cut(layer: Any, weight: Tensor, shape: tuple[int, int], attributes: dict[str, int], part: Iterable) -> Tensor:
    share = nn.Parameter(layer.weight.new_zeros(shape), requires_grad=False)
    vars(share).update(attributes)
    layer.weight_loader(share, weight.to(layer.weight), *part)
    return share.data
