"""Streams of rows by hand. Runs without vLLM."""

import torch
from torch import nn

from genarm_hf.integrations.vllm.streams import StreamedAttention, Terms


class Plus(nn.Module):
    """Stands for an attention layer: shows which rows it was given."""

    def __init__(self, value):
        super().__init__()
        self.value, self.rows = value, None

    def forward(self, query, key, value):
        self.rows = (len(query), len(key), len(value))
        return query + self.value


def test_each_stream_has_its_attention_layer():
    layers = [Plus(0.0), Plus(10.0), Plus(20.0)]
    rows = torch.arange(6.0)[:, None]
    found = StreamedAttention(layers)(rows, rows, rows)
    assert found[:, 0].tolist() == [0, 1, 12, 13, 24, 25]
    assert [layer.rows for layer in layers] == [(2, 2, 2)] * 3


def test_terms_are_added_to_their_streams_rows_and_outputs():
    """Rows (1, 1), (2, 2), (3, 3), one a stream. The first reward model adds sum(x) to output 1, the second 10 x_0 to
    outputs 1 and 2, and through another slice x_1 to output 0."""
    terms = Terms(3, split_input=False)
    terms.append(1, torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0]]), start=1)
    terms.append(2, torch.tensor([[1.0, 0.0]]), torch.tensor([[10.0], [10.0]]), start=1)
    terms.append(2, torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0]]), start=0)
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    output = torch.zeros(3, 3)
    terms.add(x, output)
    assert output.tolist() == [[0, 0, 0], [0, 4, 0], [3, 30, 30]]
