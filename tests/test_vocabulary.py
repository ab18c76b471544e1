"""Vocabularies: alignment by hand, tokenizers that agree, disagree, or are not at hand; and what asking costs."""

import logging
import math
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer
from transformers.utils import logging as hf_logging

from genarm_hf import vocabulary
from genarm_hf.vocabulary import align, check_vocabularies, vocab_size
from tests.conftest import VOCAB, tiny
from tests.reward_models import PEFT_WARNINGS, WORDS, lora, word_tokenizer

pytestmark = PEFT_WARNINGS


@pytest.fixture(autouse=True)
def nothing_remembered():
    vocabulary._warned.clear()
    vocabulary._beside.cache_clear()
    vocabulary._read.clear()


@pytest.fixture
def warnings(caplog):
    hf_logging.enable_propagation()
    caplog.set_level(logging.WARNING)
    yield lambda: [record.message for record in caplog.records if record.name.startswith("genarm_hf")]
    hf_logging.disable_propagation()


def saved(model, tokenizer, directory):
    """A model loaded from a directory with its tokenizer."""
    model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return AutoModelForCausalLM.from_pretrained(directory)


def renamed(**names):
    """The word tokenizer with other words for some ids: `w5="other"`."""
    return word_tokenizer(words={names.get(word, word): index for word, index in WORDS.items()})


# ---------------------------------------------------------------------- sizes and alignment


def test_alignment_by_hand():
    logprobs = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    longer = align(logprobs, 4)
    assert torch.equal(longer[:, :2], logprobs) and torch.equal(longer[:, 2:], torch.full((2, 2), -math.inf))
    assert torch.equal(align(logprobs, 1), logprobs[:, :1])
    assert align(logprobs, 2) is logprobs


def test_the_size_is_that_of_the_logits():
    model = tiny("llama")
    assert vocab_size(model) == VOCAB
    model.resize_token_embeddings(VOCAB + 16)
    assert vocab_size(model) == VOCAB + 16 == model(torch.tensor([[1]])).logits.shape[-1]
    assert vocab_size(lora(tiny("llama"))) == VOCAB


def test_a_packed_head_does_not_say_its_size():
    model = tiny("llama")
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(7, 1, dtype=torch.uint8), requires_grad=False)
    assert vocab_size(model) == VOCAB


@pytest.mark.parametrize(("base", "reward"), [(32000, 32064), (32001, 32000), (32000, 32001), (151936, 151643)])
def test_padding_is_accepted_without_tokenizers(base, reward):
    models = [
        tiny("llama", vocab_size=size, hidden_size=4, num_attention_heads=1, num_key_value_heads=1)
        for size in (base, reward)
    ]
    check_vocabularies(*models, "arm")


def test_sizes_that_are_far_apart_need_tokenizers():
    base, reward = tiny("llama"), tiny("llama", vocab_size=VOCAB + 200)
    with pytest.raises(
        ValueError, match=f"arm has a vocabulary of {VOCAB + 200} tokens and the base one of {VOCAB}: more than padding"
    ):
        check_vocabularies(base, reward, "arm")
    check_vocabularies(base, reward, "arm", word_tokenizer(), word_tokenizer())


# ---------------------------------------------------------------------- tokenizers


def test_a_disagreement_shows_the_first_ids(tmp_path):
    other = renamed(w5="x5", w9="x9", w12="x12")
    shown = r"5: 'w5' / 'x5', 9: 'w9' / 'x9', 12: 'w12' / 'x12'"
    match = rf"3 of 48 shared ids mean different tokens \(id: base / reward model\) {shown}\."
    with pytest.raises(ValueError, match=match):
        check_vocabularies(tiny("llama"), tiny("gpt2"), "reward_models[1]", word_tokenizer(), other)
    base = saved(tiny("llama"), word_tokenizer(), tmp_path / "base")
    reward = saved(tiny("gpt2"), other, tmp_path / "reward")
    for _ in range(2):  # remembered, not forgotten
        with pytest.raises(ValueError, match=match):
            check_vocabularies(base, reward, "reward_models[1]")


def test_renamed_special_tokens_warn_once(warnings):
    base, reward, tokenizers = tiny("llama"), tiny("gpt2"), [word_tokenizer(), word_tokenizer()]
    tokenizers[0].add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizers[1].add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    big = [tiny("llama", vocab_size=VOCAB + 1) for _ in range(2)]
    for _ in range(3):
        check_vocabularies(*big, "arm", *tokenizers)
        check_vocabularies(base, reward, "arm", *tokenizers)  # not among the ids that are compared
    assert warnings() == ["arm and the base name 1 special tokens differently: 48: '<|im_start|>' / '<|user|>'."]


def test_an_ordinary_token_in_place_of_a_special_one_is_a_disagreement():
    with pytest.raises(ValueError, match="2: '</s>' / 'end'"):
        words = {"end" if word == "</s>" else word: index for word, index in WORDS.items()}
        other = word_tokenizer(words=words | {"</s>": VOCAB})
        check_vocabularies(tiny("llama"), tiny("llama"), "arm", word_tokenizer(), other)


def test_tokens_of_one_side_alone_are_counted_once(warnings):
    base = tiny("llama", vocab_size=VOCAB + 16)
    for _ in range(3):
        check_vocabularies(base, tiny("gpt2"), "arm")
    assert warnings() == [
        "16 token ids exist in the base alone (64 in the base, 48 in arm); they are excluded from guided sampling. "
        "Padding of the embedding matrix is harmless."
    ]


def test_padding_that_no_tokenizer_produces_is_not_worth_a_word(warnings):
    check_vocabularies(tiny("llama", vocab_size=VOCAB + 16), tiny("gpt2"), "arm", word_tokenizer(), word_tokenizer())
    assert warnings() == []
    bigger = word_tokenizer()
    bigger.add_tokens(["new", "newer"])
    check_vocabularies(tiny("llama"), tiny("gpt2", vocab_size=VOCAB + 16), "arm2", word_tokenizer(), bigger)
    assert warnings()[0].startswith("2 token ids exist in arm2 alone")


def test_slow_tokenizers(tmp_path):
    size = len(ByT5Tokenizer())
    models = [tiny("llama", vocab_size=size), tiny("gpt2", vocab_size=size)]
    check_vocabularies(*models, "arm", ByT5Tokenizer(), ByT5Tokenizer())
    with pytest.raises(ValueError, match="shared ids mean different tokens"):
        check_vocabularies(*models, "arm", ByT5Tokenizer(), word_tokenizer())
    found = [saved(model, ByT5Tokenizer(), tmp_path / str(index)) for index, model in enumerate(models)]
    check_vocabularies(*found, "arm")


def test_a_tokenizer_that_grows_is_read_again():
    tokenizers = word_tokenizer(), word_tokenizer()
    models = [tiny("llama", vocab_size=VOCAB + 1) for _ in range(2)]
    check_vocabularies(*models, "arm", *tokenizers)
    tokenizers[0].add_tokens(["one"])
    tokenizers[1].add_tokens(["other"])
    vocabularies = [vocabulary._of_tokenizer(tokenizer) for tokenizer in tokenizers]
    assert [v.tokens[VOCAB] for v in vocabularies] == ["one", "other"]


def test_a_tokenizer_saved_later_is_found(tmp_path):
    base, reward = (saved(tiny(kind), None, tmp_path / kind) for kind in ("llama", "gpt2"))
    check_vocabularies(base, reward, "arm")
    word_tokenizer().save_pretrained(tmp_path / "llama")
    renamed(w5="x5").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="5: 'w5' / 'x5'"):
        check_vocabularies(base, reward, "arm")


def test_a_broken_or_foreign_tokenizer_is_not_at_hand(tmp_path):
    base, reward = (saved(tiny(kind), word_tokenizer(), tmp_path / kind) for kind in ("llama", "gpt2"))
    (tmp_path / "gpt2" / "tokenizer.json").write_text("{")
    check_vocabularies(base, reward, "arm")
    (tmp_path / "gpt2" / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}, "tokenizer_class": "Evil"}'
    )
    (tmp_path / "gpt2" / "evil.py").write_text("raise SystemExit('this code must not run')")
    vocabulary._beside.cache_clear()
    check_vocabularies(base, reward, "arm")  # without a question on the terminal either


# ---------------------------------------------------------------------- what it costs


@pytest.fixture
def loads(monkeypatch):
    """How often a tokenizer is loaded from disk."""
    stock, seen = AutoTokenizer.from_pretrained, []

    def load(path, *args, **kwargs):
        seen.append((path, kwargs))
        return stock(path, *args, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", load)
    return seen


def test_tokenizers_are_loaded_once_and_never_from_the_network(loads, tmp_path):
    base, reward = (saved(tiny(kind), word_tokenizer(), tmp_path / kind) for kind in ("llama", "gpt2"))
    for _ in range(5):
        check_vocabularies(base, reward, "arm")
    assert [path for path, _ in loads] == [str(tmp_path / "llama"), str(tmp_path / "gpt2")]
    assert all(kwargs["local_files_only"] and kwargs["trust_remote_code"] is False for _, kwargs in loads)


def test_models_of_one_origin_need_no_tokenizer(loads, tmp_path):
    base = saved(tiny("llama"), word_tokenizer(), tmp_path / "base")
    adapted = lora(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    check_vocabularies(base, adapted.get_base_model(), "arm")
    assert loads == []


def test_many_threads_agree(tmp_path):
    base, reward = (saved(tiny(kind), word_tokenizer(), tmp_path / kind) for kind in ("llama", "gpt2"))
    errors = []

    def check():
        try:
            check_vocabularies(base, reward, "arm")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=check) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_asking_again_is_cheap():
    words = WORDS | {f"w{index}": index for index in range(VOCAB, 60_000)}
    tokenizers = word_tokenizer(words=words), word_tokenizer(words=words)
    models = [
        tiny("llama", vocab_size=size, hidden_size=4, num_attention_heads=1, num_key_value_heads=1)
        for size in (60_000, 60_016)
    ]
    check_vocabularies(*models, "arm", *tokenizers)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        check_vocabularies(*models, "arm", *tokenizers)
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3  # 0.02 ms alone on a CPU; a comparison takes 50 ms
