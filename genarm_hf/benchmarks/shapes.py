"""Models of a given size with random weights: speed does not depend on what they say."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """Size of a Llama: `hidden`, `layers`, `heads`, `intermediate` and `vocab`; tied embeddings below 1B."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    kv_heads: int | None = None

    def config(self, positions: int = 2048) -> Any:
        """The transformers configuration."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads or self.heads,
            max_position_embeddings=positions,
            tie_word_embeddings=self.hidden < 2048,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def build(
        self, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu", positions: int = 2048
    ) -> Any:
        """A random model of this shape, ready to generate texts of that many positions."""
        from transformers import LlamaForCausalLM

        torch.manual_seed(seed)
        with torch.device(device):
            return LlamaForCausalLM._from_config(self.config(positions), dtype=dtype).eval()


SHAPES: dict[str, Shape] = {
    "1M": Shape(128, 4, 4, 344, 1024),
    "15M": Shape(288, 6, 6, 768, 32000),
    "26M": Shape(512, 8, 8, 1376, 2000),
    "98M": Shape(768, 10, 12, 2048, 32000),
    "1B": Shape(2048, 16, 32, 8192, 128256, 8),
    "7B": Shape(4096, 32, 32, 11008, 32000),
    "13B": Shape(5120, 40, 40, 13824, 32000),
}


def parameters(model: Any) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
