"""The tokenizer: round trips, ids that concatenate, one token a word."""

import random

import pytest

from genarm_hf.playground import load_tokenizer, prompts, sample_reply
from genarm_hf.playground.parsing import count_tokens, sentence_table
from genarm_hf.playground.tokenization import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [(prompt, sample_reply(prompt, rng)) for prompt in prompts(100, 0, "test")]


def test_committed_tokenizer_is_the_built_one(tokenizer):
    built = build_tokenizer()
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_round_trip(tokenizer, texts):
    for prompt, reply in texts:
        for text in (prompt, reply, f"{prompt} {reply}"):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
            assert len(ids) == count_tokens(text)


def test_every_sentence_is_in_the_vocabulary(tokenizer):
    ids = tokenizer(list(sentence_table()))["input_ids"]
    assert not any(tokenizer.unk_token_id in row for row in ids)


def test_prompt_and_reply_ids_concatenate(tokenizer, texts):
    for prompt, reply in texts:
        apart = tokenizer(prompt)["input_ids"] + tokenizer(reply)["input_ids"]
        assert tokenizer(f"{prompt} {reply}")["input_ids"] == apart


def test_special_tokens_and_padding(tokenizer):
    specials = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert specials == [0, 1, 2, 3]
    rows = tokenizer(["Hello.", "Good morning. Hello."], padding=True)["input_ids"]
    assert rows[0][:3] == [0, 0, 0][: len(rows[1]) - 2]
    assert tokenizer("zebra")["input_ids"] == [3]
    assert 200 <= len(tokenizer) <= 600
