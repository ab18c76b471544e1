"""Claim 7: who points where, with systems whose pointing is known."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from genarm_hf.evaluation.runner import read
from genarm_hf.playground import load_tokenizer, prompts
from genarm_hf.reproduce import credit
from genarm_hf.reproduce.planting import Planted, plant


def test_hits():
    planted = Planted("p", "r", "c", "reckless", start=2, wrong=3, end=5, length=6)
    for place, first, inside in [(0, 0, 0), (2, 0, 1), (3, 1, 1), (4, 0, 1), (5, 0, 0)]:
        values = torch.tensor([0.0] * 6 + [-2])  # the end of the text does not count
        values[place] = -1
        assert credit.hits(values, planted) == {"place": place, "first wrong token": first, "planted sentence": inside}


class Knowing(torch.nn.Module):
    """Token rewards of minus the id: the highest id of the reply is pointed at."""

    def token_rewards(self, ids):
        return -ids.float()


@pytest.fixture
def lab():
    return SimpleNamespace(
        tokenizer=load_tokenizer(),
        prompts=prompts(3, seed=0, split="test"),
        seeds=range(2),
        pairs_to_train_on=1,
        reward_rate=1e-3,
    )


def test_credit_is_of_the_reply_and_its_end(lab):
    planted = plant("harmless", lab.prompts[0], 0)
    ids = [*lab.tokenizer(planted.clean)["input_ids"], lab.tokenizer.eos_token_id]
    found = credit._of_reply(credit.token_rewards(Knowing()), lab, planted, planted.clean)
    assert found.tolist() == [-id for id in ids]


def test_score_differences_are_those_of_texts_cut_short():
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_labels=1, pad_token_id=0
    )
    classifier, ids = LlamaForSequenceClassification(config).eval(), torch.tensor([3, 5, 7, 2])
    with torch.no_grad():
        found = credit.score_differences(classifier)(ids)
        scores = torch.cat([classifier(input_ids=ids[None, : n + 1]).logits[0] for n in range(4)])
    torch.testing.assert_close(found, torch.cat([torch.zeros(1), scores.diff()]))


def test_the_claim_compares_all_systems(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(credit, "trained_arm", lambda lab, training: Knowing())
    monkeypatch.setattr(credit, "untrained_arm", lambda lab: Knowing())
    monkeypatch.setattr(credit, "trained_trajectory_reward", lambda lab, training: None)
    monkeypatch.setattr(credit, "unwrap", lambda model: model)
    monkeypatch.setattr(credit, "score_differences", lambda model: lambda ids: ids.float())
    rows = credit.run(lab, tmp_path, lambda message: None)
    systems = (credit.ARM, credit.ADVANTAGE, credit.BACKBONE, credit.TRAJECTORY, credit.CHANCE)
    overall = [row for row in rows if "kind" not in row["where"]]
    assert [row["where"]["system"] for row in overall] == [*systems, *systems]
    assert all(value["count"] == 6 for row in overall for value in row["values"].values())
    lines = [line for line in read(tmp_path / "samples.jsonl") if line["objective"] == "helpful"]
    for row in overall[:5]:
        own = [line for line in lines if line["system"] == row["where"]["system"]]
        for field in credit.FIELDS:
            assert row["values"][field]["mean"] == pytest.approx(sum(line[field] for line in own) / 6)
    # what one system prefers, its opposite does not
    arm, trajectory = (overall[place]["values"]["clean reply preferred"]["mean"] for place in (0, 3))
    assert arm == pytest.approx(1 - trajectory)
    assert len(credit.findings(rows)) == 2
    found = f"{overall[0]['values'][credit.FIRST]['mean']:.0%} by an ARM"
    assert credit.answer(rows).startswith(f"first wrong token found: helpful, {found}, ")
    credit.plot(rows, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
