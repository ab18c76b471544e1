"""Exports are what other tools read, and no reply gets lost or invented on the way."""

import json

import pytest

from genarm_hf.evaluation import to_alpaca_eval, to_dialogue, to_hh
from genarm_hf.training.formats import detect, survey


def line(identity=0, reply="Hello", **changes):
    own = {"id": identity, "system": "guided", "seed": 0, "sample": 0, "prompt": "Hi", "reply": reply}
    return own | changes


def test_alpaca_eval_takes_one_reply_an_instruction():
    lines = [line(1, seed=1), line(1, "first"), line(1, "later", sample=1), line(2, dataset="helpful_base")]
    rows = to_alpaca_eval(lines)
    assert json.loads(json.dumps(rows)) == [
        {"dataset": "genarm-hf", "instruction": "Hi", "output": "first", "generator": "guided"},
        {"dataset": "helpful_base", "instruction": "Hi", "output": "Hello", "generator": "guided"},
    ]
    assert to_alpaca_eval(lines, generator="mine")[0]["generator"] == "mine"


def test_alpaca_eval_refuses_mixed_systems_and_failures():
    with pytest.raises(ValueError, match=r"several systems, \['guided', 'other'\]"):
        to_alpaca_eval([line(1), line(2, system="other")])
    with pytest.raises(ValueError, match="id 1 has no reply"):
        to_alpaca_eval([line(1, None, error="too long")])


def test_pairs_are_read_back_as_preferences():
    lines = [line(1, "good"), line(2, "bad"), line(3), line(4)]
    others = [line(4), line(3, "x"), line(2, "better"), line(1, "worse")]  # in another order
    rows = to_hh(lines, others, [1.0, -1.0, 0.0, float("nan")])
    read = [detect(survey(rows))(row) for row in rows]
    assert [(pair["prompt"], pair["chosen"].strip(), pair["rejected"].strip()) for pair in read] == [
        ("\n\nHuman: Hi\n\nAssistant:", "good", "worse"),
        ("\n\nHuman: Hi\n\nAssistant:", "better", "bad"),
    ]


def test_pairs_without_partners_or_outcomes_are_refused():
    with pytest.raises(ValueError, match=r"`others` lack 1 of `lines`.*\(1, 0, 0\)"):
        to_hh([line(1)], [line(2)], [1.0])
    with pytest.raises(ValueError, match="`outcomes` must be one for each"):
        to_hh([line(1)], [line(1)], [])


def test_dialogues_are_kept_and_messages_become_some():
    dialogue = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Help\n\nAssistant:"
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Help"},
    ]
    assert to_dialogue(line(prompt=dialogue)) == to_dialogue(line(prompt=messages)) == dialogue + " Hello"
    assert to_dialogue(line(prompt=messages[:1])) == to_dialogue(line()) == "\n\nHuman: Hi\n\nAssistant: Hello"
    with pytest.raises(ValueError, match="got 'system'"):
        to_dialogue(line(prompt=[{"role": "system", "content": "x"}, *messages]))
