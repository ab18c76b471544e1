"""Texts as ids: BOS once, EOS once, whatever the tokenizer adds by itself."""

import pytest
import torch

from genarm_hf.scoring import as_pairs, check_ids, encode_pairs, first_column, right_pad
from tests.conftest import BOS, EOS
from tests.reward_models import word_tokenizer


@pytest.mark.parametrize(("bos", "front"), [(True, [BOS]), (False, [])])
@pytest.mark.parametrize("eos", [True, False])
def test_special_tokens_in_front_but_not_behind_the_prompt(bos, front, eos):
    ids, start = encode_pairs(word_tokenizer(bos, eos), ["w5 w6"], ["w7"])[0]
    assert ids == [*front, 5, 6, 7, EOS] and start == len(front) + 2


def test_a_template_that_spells_bos_out_does_not_double_it():
    assert encode_pairs(word_tokenizer(), ["w5"], ["w6"], "<s> {prompt} w9")[0] == ([BOS, 5, 9, 6, EOS], 3)
    assert encode_pairs(word_tokenizer(bos=False), ["w5"], ["w6"], "<s> {prompt} w9")[0] == ([BOS, 5, 9, 6, EOS], 3)


def test_ends_inside_the_prompt_stay():
    prompt = "w5 </s> <s> w6 </s>"
    for eos in (True, False):
        assert encode_pairs(word_tokenizer(eos=eos), [prompt], ["w7"])[0] == ([BOS, 5, EOS, BOS, 6, EOS, 7, EOS], 6)


def test_the_end_is_appended_once():
    tokenizer = word_tokenizer()
    assert encode_pairs(tokenizer, ["w5"], ["w6 </s>"])[0][0] == [BOS, 5, 6, EOS]
    assert encode_pairs(tokenizer, ["w5"], ["w6"], append_eos=False)[0][0] == [BOS, 5, 6]
    tokenizer.eos_token = None
    assert encode_pairs(tokenizer, ["w5"], ["w6"])[0][0] == [BOS, 5, 6]


def test_one_token_for_both_ends():
    tokenizer = word_tokenizer()
    tokenizer.eos_token = "<s>"  # as in GPT-2
    assert encode_pairs(tokenizer, ["w5"], ["w6"])[0] == ([BOS, 5, 6, BOS], 2)
    assert encode_pairs(tokenizer, [""], ["w6"])[0] == ([BOS, 6, BOS], 1)


@pytest.mark.parametrize("eos", [True, False])
def test_an_empty_prompt(eos):
    assert encode_pairs(word_tokenizer(eos=eos), [""], ["w6"])[0] == ([BOS, 6, EOS], 1)
    assert encode_pairs(word_tokenizer(False, eos), [""], ["w6"])[0] == ([6, EOS], 0)


def test_responses_without_tokens():
    assert encode_pairs(word_tokenizer(), ["w5"], [""])[0] == ([BOS, 5, EOS], 2)
    with pytest.raises(ValueError, match=r"`responses\[1\]` has no tokens: ''"):
        encode_pairs(word_tokenizer(), ["w5", "w5"], ["w6", ""], append_eos=False)
    assert encode_pairs(word_tokenizer(), [], []) == []


def test_pairs():
    assert as_pairs("p", ["a", "b"]) == (["p", "p"], ["a", "b"])
    assert as_pairs("p", "a") == (["p"], ["a"])
    with pytest.raises(ValueError, match="must have one length, got 2 and 1"):
        as_pairs(["p", "q"], ["a"])


def test_padding_and_masks():
    ids, mask, response = right_pad([([1, 5, 6], 2), ([1, 5, 6, 7, 8], 3)], torch.device("cpu"))
    assert ids.tolist() == [[1, 5, 6, 0, 0], [1, 5, 6, 7, 8]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert response.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert first_column(response.bool()) == 2
    assert first_column(torch.zeros(2, 5, dtype=torch.bool)) == 4
    assert first_column(torch.ones(2, 5, dtype=torch.bool)) == 1


@pytest.mark.parametrize("texts", [None, 3, b"text", {"text": 1}, [None], ["a", 3], [["a"]]])
def test_what_is_no_text(texts):
    with pytest.raises(TypeError, match="`responses` must be"):
        as_pairs("p", texts)
    with pytest.raises(TypeError, match="`prompts` must be"):
        as_pairs(texts, ["a"])


def test_texts_of_any_kind_of_sequence():
    assert as_pairs(("p", "q"), iter(["a", "b"])) == (["p", "q"], ["a", "b"])


@pytest.mark.parametrize("tokenizer", [None, "name", 3])
def test_what_is_no_tokenizer(tokenizer):
    with pytest.raises(TypeError, match="`tokenizer` must be the reward model's tokenizer"):
        encode_pairs(tokenizer, ["w5"], ["w6"])


def test_ids_and_masks_of_other_kinds():
    ids = torch.tensor([[4, 5, 6]])
    check_ids(ids, attention_mask=None, response_mask=torch.ones_like(ids))
    check_ids(ids.int())
    for wrong in (None, [[4]], ids.float(), ids.bool()):
        with pytest.raises(TypeError, match="`input_ids` must be a tensor of token ids"):
            check_ids(wrong)
    for wrong in (ids[0], ids[:0], ids[:, :0]):
        with pytest.raises(ValueError, match=r"`input_ids` must be \(batch, length\)"):
            check_ids(wrong)
    with pytest.raises(TypeError, match="`attention_mask` must be a tensor"):
        check_ids(ids, attention_mask=[1, 1, 1])
    with pytest.raises(ValueError, match="`response_mask` must have the shape"):
        check_ids(ids, response_mask=ids[:, 1:])
