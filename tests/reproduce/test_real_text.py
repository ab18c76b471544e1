"""Real preferences, with pairs that words give away, and without any."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from genarm_hf.evaluation.runner import read
from genarm_hf.playground import load_tokenizer
from genarm_hf.reproduce import claims
from genarm_hf.reproduce import real_text as claim
from genarm_hf.reproduce.lab import Lab


def write(folder, name, number):
    with gzip.open(folder / f"{name}.jsonl.gz", "wt") as file:
        for n in range(number):
            pair = {
                "prompt": f"{name}, step {n}:",
                "chosen": " Fill a good pocket.",
                "rejected": " Fill a rude pocket now.",
            }
            file.write(json.dumps(pair) + "\n")
    return folder


def test_without_pairs_it_says_so(tmp_path):
    assert "--data DIR" in claims.skipped("real_text", Lab(tmp_path))
    assert "has 0" in claims.skipped("real_text", Lab(tmp_path, data=tmp_path))
    write(write(tmp_path, "one.test", 2), "two.test", 2)
    lab = Lab(tmp_path, data=tmp_path)
    assert claims.skipped("real_text", lab) is None and list(claim.files(lab)) == ["one", "two"]
    assert claims.skipped("credit", Lab(tmp_path)) is None


def test_ties_are_half_right():
    assert claim.right(np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])) == [1.0, 0.0, 0.5]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Two files, and a tiny model instead of a pretrained one."""
    tokenizer = load_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids)).eval()
    asked = []

    def small_language_model(texts, epochs):
        asked.append(list(texts))
        return model, tokenizer

    monkeypatch.setattr(claim, "small_language_model", small_language_model)
    monkeypatch.setattr(claim, "sizes", lambda lab: {"folds": 2, "pairs": 8, "tokens": 64, "pretraining": 1})
    data = tmp_path / "data"
    data.mkdir()
    write(write(data, "one", 8), "two", 8)
    return SimpleNamespace(lab=Lab(tmp_path / "lab", fast=True, data=data), asked=asked)


def test_every_pair_is_held_out_once(lab, tmp_path, monkeypatch):
    judged = []

    def scores(model, tokenizer, train, held_out):
        assert not set(train["prompt"]) & set(held_out["prompt"])
        judged.extend(held_out["prompt"])
        good, bad = np.array([[1.0, 0.0]] * len(held_out)), np.array([[0.0, 1.0]] * len(held_out))
        return {claim.ARM: good, claim.PER_TOKEN: bad, claim.TRAJECTORY: np.concatenate([good[:-1], bad[:1]])}

    monkeypatch.setattr(claim, "_scores", scores)
    rows = claim.run(lab.lab, tmp_path, lambda message: None)
    assert len(judged) == len(set(judged)) == 16
    accuracies = {
        tuple(row["where"].values()): row["values"][claim._RIGHT] for row in rows if row["table"] == claim._TABLE
    }
    assert [value["mean"] for value in accuracies.values()] == [1.0, 0.0, 0.75] * 2
    assert {value["count"] for value in accuracies.values()} == {8}
    leads = {tuple(row["where"].values()): row["values"][claim._LEAD] for row in rows if row["table"] == claim._LEADS}
    assert [value["mean"] for value in leads.values()] == [0.25, -0.75] * 2
    assert "not told apart" in claim.findings(rows)[0] and "below" in claim.findings(rows)[1]
    assert "ARM: summed log-probabilities: not told apart; " in claim.answer(rows)
    assert claim.answer(rows).endswith("ARM: log-probabilities per token: below")
    # pretrained once for both folds, on the other file
    assert len(lab.asked) == 2 and len(lab.asked[0]) == 8
    assert all(text.startswith("two, step") for text in lab.asked[0])
    assert len(read(tmp_path / "samples.jsonl")) == 16 * 3
    claim.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


@pytest.mark.slow
def test_every_system_learns_from_the_pairs(lab):
    cell = {"data": "one", "fold": 0, **claim.sizes(lab.lab)}
    samples = list(claim._measure(lab.lab, cell))
    assert [one["system"] for one in samples[: len(claim.SYSTEMS)]] == list(claim.SYSTEMS)
    assert all(one[claim._RIGHT] == 1.0 for one in samples if one["system"] == claim.LENGTH)  # the shorter is chosen


def test_the_command_does_not_tell_where_data_is(tmp_path):
    lab = Lab(tmp_path, fast=True, data=tmp_path / "secret")
    assert claims._command("real_text", lab, claim) == "genarm-hf reproduce real_text --data DIR --fast"
