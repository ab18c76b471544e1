"""Drafts by the reward models of the call: the same tokens, fewer forwards."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch import Tensor
from transformers import StaticCache, set_seed

import genarm_hf
from genarm_hf.decoding.reward_reader import RewardReader
from genarm_hf.decoding.speculative import DraftingReader, GuidedDrafts

from ..conftest import EOS, VOCAB, prompts, tiny
from .reference import StatelessGuidance, reference_greedy
from .test_random_configurations import model, strengths
from .test_sampling_distribution import SMALL

NEW = 12
GREEDY: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False}
WINDOWS_ROLL_BACK = Version(transformers.__version__) >= Version("5.15")
KINDS = ["llama", "qwen2", "gpt2", *(["mistral", "gemma"] if WINDOWS_ROLL_BACK else [])]
ALPHAS = {
    "low": 0.4,
    "high": 3.0,
    "negative": -0.7,
    "callable": lambda step: 0.5 * (step % 4),
    "late": lambda step: 0.0 if step < 5 else 2.0,
}


def drafting(arm: Any, tokens: int = 5, threshold: float = 0.0, schedule: str = "constant") -> Any:
    """An assistant that always drafts so many tokens, if nothing else is said."""
    config = arm.generation_config
    config.num_assistant_tokens, config.assistant_confidence_threshold = tokens, threshold
    config.num_assistant_tokens_schedule = schedule
    return arm


def count_forwards(*models: Any) -> list[list[int]]:
    """Tokens fed in each forward, by model."""
    fed: list[list[int]] = []
    for each in models:
        lengths: list[int] = []
        each.register_forward_pre_hook(
            lambda _, args, kwargs, lengths=lengths: lengths.append(
                (args[0] if args else kwargs["input_ids"]).shape[1]
            ),
            with_kwargs=True,
        )
        fed.append(lengths)
    return fed


# ---------------------------------------------------------------------- the reader


def test_a_reader_runs_ahead_and_knows_what_it_read() -> None:
    arm, ids = tiny("llama"), torch.tensor([[3, 4, 5, 6, 7]])
    expected = arm(ids).logits
    reader = DraftingReader.of(RewardReader.open(arm, True))
    reader.start_draft()
    reader.extend(ids[:, :2], None)
    alone = [reader.logits(1)]
    for position in (2, 3):
        reader.extend(ids[:, position : position + 1], None)
        alone.append(reader.logits(1))
    reader.extend(ids[:, 4:], None)
    reader.ahead = ids
    assert reader.forwards == 3 and reader.length == 5 and reader.read == 4

    reader.extend(ids, None)  # the base follows
    torch.testing.assert_close(reader.logits(4), expected[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.cat(alone, 1), expected[:, 1:4], atol=1e-4, rtol=1e-4)
    assert reader.forwards == 4 and reader.ahead is None and reader.length == 5

    reader.crop(3)
    assert reader.known is None and reader.length == 2, "nothing is kept behind a draft"
    reader.extend(torch.tensor([[9]]), None)
    other = arm(torch.tensor([[3, 4, 9]])).logits[:, -1:]
    torch.testing.assert_close(reader.logits(1), other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("follows", [[3, 4, 8], [3, 4]], ids=["other ids", "fewer ids"])
def test_a_draft_that_the_base_does_not_follow_is_forgotten(follows: list[int]) -> None:
    arm = tiny("llama")
    reader = DraftingReader.of(RewardReader.open(arm, True))
    reader.start_draft()
    drafted = torch.tensor([[3, 4, 5]])
    reader.extend(drafted[:, :2], None)
    reader.logits(1)
    reader.extend(drafted[:, 2:], None)
    reader.ahead = drafted
    ids = torch.tensor([follows])
    reader.extend(ids, None)
    assert reader.length == len(follows)
    torch.testing.assert_close(reader.logits(2), arm(ids).logits[:, -2:], atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------- the same tokens


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("arms", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_drafts_change_no_token(kind: str, arms: int, alpha: str) -> None:
    base = tiny(kind)
    rewards = [drafting(tiny(KINDS[(KINDS.index(kind) + i) % len(KINDS)], seed=1 + i)) for i in range(arms)]
    prompt = prompts(1, 8, seed=3)
    value = ALPHAS[alpha]
    strength = (lambda step: [value(step), 0.5][:arms]) if callable(value) else [value, 0.5][:arms]
    expected = reference_greedy(base, rewards, strength, prompt, NEW, EOS)
    output = base.generate(**prompt, reward_models=rewards, alpha=strength, assistant_model=rewards[-1], **GREEDY)
    assert torch.equal(output, expected)


@pytest.mark.parametrize("schedule", ["constant", "heuristic", "heuristic_transient"])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_any_length_of_drafts(schedule: str, threshold: float) -> None:
    base, prompt = tiny("llama"), prompts(1, 6)
    expected = reference_greedy(base, [tiny("llama", seed=1)], 2.0, prompt, 25, EOS)
    for tokens in (1, 3, 20):
        arm = drafting(tiny("llama", seed=1), tokens, threshold, schedule)
        output = base.generate(
            **prompt, reward_models=[arm], alpha=2.0, assistant_model=arm, max_new_tokens=25, do_sample=False
        )
        assert torch.equal(output, expected)


def test_padding_and_prompts_of_their_own() -> None:
    base, rewards = tiny("llama"), [drafting(tiny("gpt2", seed=1)), tiny("qwen2", seed=2)]
    padded = {name: rows[:1] for name, rows in prompts(2, 8, seed=3, padded=True).items()}
    assert padded["attention_mask"][0, 0] == 0
    own = {name: rows[:1] for name, rows in prompts(2, 5, seed=4, padded=True).items()}
    for reward_prompts in ([None, None], [own, None], [None, own], [own, own]):
        expected = reference_greedy(base, rewards, [1.2, 0.6], padded, NEW, EOS, reward_prompts)
        output = base.generate(
            **padded,
            reward_models=rewards,
            alpha=[1.2, 0.6],
            reward_inputs=reward_prompts,
            assistant_model=rewards[0],
            return_dict_in_generate=True,
            **GREEDY,
        )
        assert torch.equal(output.sequences, expected)
        # the last token of a draft is read to verify it: drafted + 1 forwards a round
        spoken = output.speculation
        assert spoken.reward_forwards[0] == spoken.drafted + spoken.rounds


def test_an_encoder_decoder_base() -> None:
    base, arm = tiny("t5"), drafting(tiny("llama", seed=1))
    prompt, guidance = prompts(1, 6), {"reward_models": [arm], "alpha": 1.5}
    expected = base.generate(**prompt, **guidance, **GREEDY)
    output = base.generate(**prompt, **guidance, assistant_model=arm, return_dict_in_generate=True, **GREEDY)
    assert torch.equal(output.sequences, expected)
    assert output.speculation.base_forwards == output.speculation.rounds


@pytest.mark.parametrize("size", [VOCAB - 4, VOCAB + 3])
def test_a_vocabulary_padded_otherwise(size: int) -> None:
    base, arm, prompt = tiny("llama"), drafting(tiny("llama", seed=1, vocab_size=size)), prompts(1, 6)
    prompt["input_ids"].clamp_(max=size - 1)
    for mode in (GREEDY, {"max_new_tokens": NEW, "do_sample": True, "top_k": 0}):
        guidance = {"reward_models": [arm], "alpha": 1.5}
        set_seed(0)
        output = base.generate(**prompt, **guidance, assistant_model=arm, return_dict_in_generate=True, **mode)
        assert output.speculation.drafted > 0
        if not mode["do_sample"]:
            assert torch.equal(output.sequences, base.generate(**prompt, **guidance, **mode))


@pytest.mark.parametrize("shared", [True, False])
def test_lora_reward_models(shared: bool) -> None:
    pytest.importorskip("peft")
    from .test_shared_backbone import adapted

    base, prompt = tiny("llama"), prompts(1, 8)
    arms = [adapted(base, 1), adapted(base, 3)]
    drafting(arms[0].get_base_model())
    expected = reference_greedy(base, [arm.get_base_model() for arm in arms], [0.9, 0.4], prompt, NEW, EOS)
    output = base.generate(
        **prompt,
        reward_models=arms,
        alpha=[0.9, 0.4],
        share_backbone=shared,
        assistant_model=arms[0],
        return_dict_in_generate=True,
        **GREEDY,
    )
    assert torch.equal(output.sequences, expected)
    # in the base's pass a reward model has no reader of its own to draft with: transformers runs it
    spoken = output.speculation
    assert spoken.reward_forwards == ((0, 0) if shared else (spoken.drafted + spoken.rounds, spoken.rounds))


@pytest.mark.parametrize("form", ["reward model", "causal LM", "guide"])
def test_the_assistant_in_any_form(form: str) -> None:
    base, arm, prompt = tiny("llama"), drafting(tiny("llama", seed=1)), prompts(1, 6)
    whole = genarm_hf.AutoregressiveRewardModel.from_backbone(arm)
    expected = reference_greedy(base, [arm], 1.5, prompt, NEW, EOS)
    settings_ = GREEDY | {"return_dict_in_generate": True, "assistant_model": arm if form == "causal LM" else whole}
    if form == "guide":
        output = genarm_hf.guide(base, whole, 1.5).generate(**prompt, **settings_)
    else:
        output = base.generate(**prompt, reward_models=[whole], alpha=1.5, **settings_)
    assert torch.equal(output.sequences, expected)
    assert output.speculation.reward_forwards == (output.speculation.drafted + output.speculation.rounds,)


def test_a_reward_model_that_is_switched_off_may_draft() -> None:
    base, arms, prompt = tiny("llama"), [drafting(tiny("llama", seed=1)), tiny("gpt2", seed=2)], prompts(1, 6)
    for alpha in ([0.0, 1.0], [0.0, 0.0]):
        expected = reference_greedy(base, arms, alpha, prompt, NEW, EOS)
        output = base.generate(**prompt, reward_models=arms, alpha=alpha, assistant_model=arms[0], **GREEDY)
        assert torch.equal(output, expected)


@st.composite
def configurations(draw: Any) -> dict[str, Any]:
    arms = draw(st.integers(1, 3))
    values = torch.tensor(draw(st.lists(strengths, min_size=arms, max_size=arms)))
    return {
        "base": draw(st.sampled_from(KINDS)),
        "arms": [
            (draw(st.sampled_from(KINDS)), draw(st.integers(1, 3)), draw(st.sampled_from([VOCAB, VOCAB - 4])))
            for _ in range(arms)
        ],
        "values": values.tolist(),
        "schedule": draw(st.booleans()),
        "length": draw(st.integers(2, 12)),
        "padded": draw(st.booleans()),
        "seed": draw(st.integers(0, 99)),
        "own": [draw(st.booleans()) and draw(st.integers(2, 10)) for _ in range(arms)],
        "draft": (
            draw(st.integers(1, 9)),
            draw(st.sampled_from([0.0, 0.4])),
            draw(st.sampled_from(["constant", "heuristic_transient"])),
        ),
        "processors": draw(st.sampled_from([{}, {"repetition_penalty": 1.3}, {"min_new_tokens": 5}])),
        "new": draw(st.integers(1, 15)),
    }


@settings(max_examples=150, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(configurations(), st.integers(0, 3))
def test_drafting_equals_plain_guided_decoding(case: dict[str, Any], which: int) -> None:
    """The assistant is one of the reward models, or (3) a small base."""
    note(f"{case}")
    base, arms = model(case["base"], 0), [model(*arm) for arm in case["arms"]]
    assistant = drafting(model(case["base"], 5) if which == 3 else arms[which % len(arms)], *case["draft"])
    rows = prompts(2, case["length"], case["seed"], case["padded"])
    prompt = {name: value[:1] for name, value in rows.items()}
    own = [prompts(1, length, seed=50 + i) if length else None for i, length in enumerate(case["own"])]
    for inputs in own:
        if inputs is not None:
            inputs["input_ids"].clamp_(max=VOCAB - 5)
    values = torch.tensor(case["values"])
    # one that is switched off is any assistant, whose vocabulary transformers wants to be the base's
    assume(
        which == 3 or case["schedule"] or values[which % len(arms)] != 0 or case["arms"][which % len(arms)][2] == VOCAB
    )
    alpha: Any = (lambda step: values * (step % 3)) if case["schedule"] else values
    guidance = {"reward_models": arms, "alpha": alpha, "reward_inputs": own, **case["processors"]}
    plain = {"max_new_tokens": max(case["new"], case["processors"].get("min_new_tokens", 0)), "do_sample": False}
    expected = base.generate(**prompt, **guidance, **plain)
    assert torch.equal(base.generate(**prompt, **guidance, **plain, assistant_model=assistant), expected)


# ---------------------------------------------------------------------- a small base


def small_base(kind: str = "llama", tokens: int = 5) -> Any:
    return drafting(tiny(kind, seed=77, num_hidden_layers=1), tokens)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[3:])
def test_a_small_base_that_they_guide_changes_no_token(kind: str, alpha: str) -> None:
    base, rewards = tiny(kind), [tiny("gpt2", seed=1), tiny(KINDS[-1], seed=2)]
    value, prompt = ALPHAS[alpha], {name: rows[:1] for name, rows in prompts(2, 8, seed=3, padded=True).items()}
    strength = (lambda step: [value(step), 0.5]) if callable(value) else [value, 0.5]
    own = prompts(1, 5, seed=4)
    for reward_prompts in (None, [None, own]):
        expected = reference_greedy(base, rewards, strength, prompt, NEW, EOS, reward_prompts)
        output = base.generate(
            **prompt, reward_models=rewards, alpha=strength, assistant_model=small_base(kind),
            reward_inputs=reward_prompts, return_dict_in_generate=True, **GREEDY,
        )  # fmt: skip
        assert torch.equal(output.sequences, expected)
        spoken = output.speculation
        assert spoken.assistant_forwards == spoken.drafted
        most = spoken.drafted + spoken.rounds
        # a verification at alpha 0 throughout asks for no opinion
        assert spoken.reward_forwards == (most, most) or (callable(value) and spoken.reward_forwards <= (most, most))


def test_a_small_base_that_is_the_base_is_always_right() -> None:
    """The draft is then the guided policy itself, which two plain models never are."""
    base, arms, prompt = tiny("llama"), [tiny("gpt2", seed=1), tiny("qwen2", seed=2)], prompts(1, 6)
    small = drafting(tiny("llama"), 4)
    base_fed, small_fed, *arms_fed = count_forwards(base, small, *arms)
    for sample in (False, True):
        set_seed(0)
        output = base.generate(
            **prompt, reward_models=arms, alpha=[0.9, -0.4], assistant_model=small, max_new_tokens=21,
            do_sample=sample, eos_token_id=None, return_dict_in_generate=True, top_k=0 if sample else None,
        )  # fmt: skip
        spoken = output.speculation
        assert spoken.acceptance == 1 and spoken.rounds == 5 == spoken.base_forwards
        assert spoken.drafted == spoken.assistant_forwards == 16 and spoken.reward_forwards == (21, 21)
    assert (len(base_fed), len(small_fed), [len(fed) for fed in arms_fed]) == (10, 32, [42, 42])
    assert sum(small_fed) == 2 * (6 + 20 - 2) and all(sum(fed) == 2 * (6 + 20) for fed in arms_fed)


def test_a_small_base_where_some_run_in_the_bases_pass() -> None:
    pytest.importorskip("peft")
    from .test_shared_backbone import adapted

    base, prompt = tiny("llama"), prompts(1, 8)
    arms = [adapted(base, 1).get_base_model(), tiny("gpt2", seed=2)]
    for several in (arms, arms[:1]):
        alpha = [0.9, 0.4][: len(several)]
        expected = reference_greedy(base, several, alpha, prompt, NEW, EOS)
        output = base.generate(
            **prompt, reward_models=several, alpha=alpha, assistant_model=small_base(), return_dict_in_generate=True,
            **GREEDY,
        )  # fmt: skip
        assert torch.equal(output.sequences, expected)
        assert (output.speculation.assistant_forwards is None) == (len(several) == 1)


# ---------------------------------------------------------------------- the same distribution

LENGTH = 2


def enumerated(base: Any, arms: list[Any], alpha: list[float], prompt: Tensor, processors: dict[str, Any]) -> Tensor:
    """Probability of each of the 8 ** 2 continuations: transformers' own processors on the formula's logits."""
    config = transformers.GenerationConfig(do_sample=True, **processors)
    warpers = base._get_logits_processor(config, prompt.shape[1], prompt, None, transformers.LogitsProcessorList())
    guidance = StatelessGuidance(arms, alpha, {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)})

    def probabilities(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return warpers(ids, guidance(ids, base(ids).logits[:, -1].float())).softmax(-1)

    first = probabilities(prompt)[0]
    texts = torch.cat([prompt.expand(8, -1), torch.arange(8)[:, None]], 1)
    return torch.cat([first[row] * probabilities(texts[row : row + 1])[0] for row in range(8)])


POLICIES: list[tuple[list[float], dict[str, Any]]] = [
    ([1.0], {"top_k": 0}),
    ([2.5], {"top_k": 0, "temperature": 0.6}),
    ([1.0, -0.5], {"top_k": 5, "temperature": 1.7}),
    ([-0.8], {"top_k": 0, "top_p": 0.8}),
    ([0.3, 0.5], {"top_k": 6, "top_p": 0.95, "temperature": 2.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alpha", "processors", "draft"),
    [
        *((*policy, "reward model") for policy in POLICIES[::2]),
        *((*policy, "small base") for policy in POLICIES[1::2]),
        # drafts without probabilities, which transformers verifies by sampling
        (*POLICIES[2], "prompt lookup"),
    ],
)
def test_samples_follow_the_guided_policy(alpha: list[float], processors: dict[str, Any], draft: str) -> None:
    base = tiny("llama", **SMALL)
    arms = [drafting(tiny("llama", seed=1 + i, **SMALL), 3) for i in range(len(alpha))]
    prompt, samples = torch.tensor([[3, 4, 5, 3, 4]]), 1200  # with something to look up
    expected = enumerated(base, arms, alpha, prompt, processors)
    guided = genarm_hf.guide(base, arms, alpha)
    small = drafting(tiny("llama", seed=9, num_hidden_layers=1, **SMALL), 3)
    drafts: dict[str, Any] = {"reward model": {"assistant_model": arms[0]}, "small base": {"assistant_model": small}}
    drafts["prompt lookup"] = {"prompt_lookup_num_tokens": 3}
    # two tokens more than are looked at, so that both are drafted at once
    settings_ = {"max_new_tokens": LENGTH + 2, "do_sample": True, "eos_token_id": None, **processors}
    set_seed(0)
    drawn = torch.cat([guided.generate(prompt, **drafts[draft], **settings_) for _ in range(samples)])

    def distance(output: Tensor) -> float:
        codes = output[:, 5] * 8 + output[:, 6]
        return float((torch.bincount(codes, minlength=64) / len(codes) - expected).abs().sum() / 2)

    draws = torch.stack([torch.bincount(expected.multinomial(samples, True), minlength=64) for _ in range(40)])
    distances = (draws / samples - expected).abs().sum(-1) / 2
    limit = float(distances.mean() + 4 * distances.std())
    assert distance(drawn) < limit
    alone = arms[0].generate(prompt.expand(samples, -1), **settings_)
    assert distance(alone) > 1.5 * limit, "the test could not tell the draft from the guided policy"


@pytest.mark.parametrize("processors", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7, "temperature": 1.4}])
def test_scores_of_a_draft_are_what_it_was_drawn_from(processors: dict[str, Any]) -> None:
    """The exactness of speculative sampling rests on this. A reward model drafts from `pi ** (1 + alpha)`."""
    base, arm, prompt = tiny("llama"), drafting(tiny("llama", seed=1), 4), prompts(1, 6)
    guided = genarm_hf.guide(base, arm, 0.7)
    seen: list[tuple[Tensor, Tensor]] = []
    stock = type(guided)._get_candidate_generator

    def spy(self: Any, **kwargs: Any) -> Any:
        generator = stock(self, **kwargs)
        draft = generator.get_candidates
        generator.get_candidates = lambda ids: seen.append((draft(ids), ids)) or seen[-1][0]
        return generator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(guided), "_get_candidate_generator", spy)
        set_seed(3)
        settings_ = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "assistant_model": arm} | processors
        guided.generate(**prompt, **settings_)
    warpers = base._get_logits_processor(
        transformers.GenerationConfig(do_sample=True, **{"top_k": 0} | processors), 6, None, None,
        transformers.LogitsProcessorList(),
    )  # fmt: skip
    drafts = [(ids, scores, text) for (ids, scores), text in seen if scores is not None]
    assert drafts
    for ids, scores, text in drafts:
        assert scores.shape[1] == ids.shape[1] - text.shape[1]
        for position in range(scores.shape[1]):
            context = ids[:, : text.shape[1] + position]
            with torch.no_grad():
                expected = warpers(context, 1.7 * arm(context).logits[:, -1].log_softmax(-1))
            torch.testing.assert_close(scores[:, position], expected, atol=1e-3, rtol=1e-3)
            assert scores[0, position, ids[0, context.shape[1]]] > -torch.inf


# ---------------------------------------------------------------------- the length of drafts


@pytest.mark.parametrize(
    ("own", "greedy", "sampled"),
    [
        ({}, (20, 0.4), (10, 0.0)),
        ({"num_assistant_tokens": 7}, (7, 0.4), (7, 0.0)),
        ({"assistant_confidence_threshold": 0.4}, (20, 0.4), (10, 0.4)),
        ({"num_assistant_tokens": 20, "assistant_confidence_threshold": 0.0}, (20, 0.0), (20, 0.0)),
    ],
)
@pytest.mark.parametrize("draft", ["reward model", "small base"])
def test_what_the_assistant_says_goes_before_what_was_measured(
    draft: str, own: dict[str, Any], greedy: tuple, sampled: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, arm, small = tiny("llama"), tiny("llama", seed=1), tiny("llama", seed=2)
    assistant = arm if draft == "reward model" else small
    assistant.generation_config.update(**own)
    before = assistant.generation_config.to_dict()
    seen: list[tuple] = []
    stock = GuidedDrafts.get_candidates

    def get_candidates(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((self.num_assistant_tokens, self.assistant_confidence_threshold))
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(GuidedDrafts, "get_candidates", get_candidates)
    for mode in (False, True):
        base.generate(
            **prompts(1), reward_models=[arm], alpha=1.0, assistant_model=assistant, max_new_tokens=2, do_sample=mode
        )
    assert (seen[0], seen[-1]) == (greedy, sampled) and assistant.generation_config.to_dict() == before


# ---------------------------------------------------------------------- the cost


@pytest.mark.parametrize("sample", [False, True])
def test_forwards_are_counted_and_fewer(sample: bool) -> None:
    base, other = tiny("llama"), tiny("gpt2", seed=2)
    arm, prompt = drafting(tiny("llama", seed=1), 4), prompts(1, 6)
    base_fed, arm_fed, other_fed = count_forwards(base, arm, other)
    set_seed(0)
    output = base.generate(
        **prompt, reward_models=[arm, other], alpha=[20.0, 0.1], assistant_model=arm, max_new_tokens=21,
        do_sample=sample, eos_token_id=None, return_dict_in_generate=True,
    )  # fmt: skip
    spoken = output.speculation
    assert spoken.rounds == spoken.base_forwards == len(base_fed) == len(other_fed)
    assert len(arm_fed) == spoken.drafted + spoken.rounds and spoken.reward_forwards == (len(arm_fed), len(other_fed))
    assert arm_fed[1:] == [1] * (len(arm_fed) - 1), "the drafting reward model reads every token once"
    # every round gives its accepted tokens and one more
    assert spoken.accepted + spoken.rounds == 21 == output.sequences.shape[1] - 6
    assert spoken.acceptance == spoken.accepted / spoken.drafted > 0.5
    # the two models run apart: as many base forwards, and the reward model runs once to draft and once to verify
    assert len(base_fed) <= 12
    assert sum(arm_fed) <= sum(base_fed)


def test_an_accepted_end_of_text_counts() -> None:
    base, arm, prompt = tiny("llama"), drafting(tiny("llama", seed=1), 6), prompts(1, 6)
    plain = base.generate(
        **prompt, reward_models=[arm], alpha=50.0, max_new_tokens=9, do_sample=False, eos_token_id=None
    )
    end = int(plain[0, 9])  # one of the tokens of a draft
    ids = base.generate(
        **prompt, reward_models=[arm], alpha=50.0, max_new_tokens=9, do_sample=False, eos_token_id=end,
        pad_token_id=0, assistant_model=arm, return_dict_in_generate=True,
    )  # fmt: skip
    length = int((plain[0, 6:] == end).nonzero()[0]) + 1
    assert torch.equal(ids.sequences, plain[:, : 6 + length])
    assert ids.speculation.accepted == length and ids.speculation.rounds == 1


def test_other_drafts_are_counted_too() -> None:
    base, arm, prompt = tiny("llama"), tiny("gpt2", seed=1), prompts(1, 9)
    prompt["input_ids"][0, 4:8] = prompt["input_ids"][0, :4]
    output = base.generate(
        **prompt, reward_models=[arm], alpha=0.5, prompt_lookup_num_tokens=3, return_dict_in_generate=True, **GREEDY
    )
    spoken = output.speculation
    assert spoken.base_forwards == spoken.rounds == spoken.reward_forwards[0]
    assert spoken.drafted >= spoken.accepted == output.sequences.shape[1] - 9 - spoken.rounds
    assert "speculation" not in base.generate(
        **prompt, reward_models=[arm], alpha=0.5, return_dict_in_generate=True, **GREEDY
    )


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("draft", ["assistant", "prompt lookup"])
@pytest.mark.parametrize("wrong", ["batch", "static", "static cache"])
def test_what_cannot_be_drafted_for(draft: str, wrong: str) -> None:
    base, arm = tiny("llama"), tiny("llama", seed=1)
    fed = count_forwards(base, arm)
    extra: dict[str, Any] = {"assistant_model": arm} if draft == "assistant" else {"prompt_lookup_num_tokens": 2}
    if wrong == "static":
        extra["cache_implementation"] = "static"
    elif wrong == "static cache":
        extra["past_key_values"] = StaticCache(config=base.config, max_cache_len=40)
    message = r"one prompt at a time, and the inputs have 3 rows" if wrong == "batch" else r"leave out `cache_impl"
    with pytest.raises(ValueError, match=message):
        base.generate(**prompts(3 if wrong == "batch" else 1), reward_models=[arm], alpha=1.0, **extra, **GREEDY)
    assert fed == [[], []]


def test_a_cache_that_is_not_empty_is_refused() -> None:
    """Transformers' assisted decoding feeds the cached tokens again, and gives other tokens without a word."""
    base, arm, prompt = tiny("llama"), tiny("llama", seed=1), prompts(1)
    guidance: dict[str, Any] = {"reward_models": [arm], "alpha": 1.0, "return_dict_in_generate": True}
    drafted = base.generate(**prompt, **guidance, assistant_model=drafting(arm), **GREEDY)
    longer = {"input_ids": drafted.sequences, "attention_mask": torch.ones_like(drafted.sequences)}
    cache = drafted.past_key_values
    with pytest.raises(ValueError, match=r"holds 17 tokens.*without a cache"):
        base.generate(**longer, **guidance, past_key_values=cache, assistant_model=arm, **GREEDY)
    assert cache.readers[0].known is None and cache.readers[0].ahead is None
    # without drafts the text goes on, from the cache that a drafting reward model leaves
    expected = base.generate(**longer, **guidance, **GREEDY).sequences
    assert torch.equal(base.generate(**longer, **guidance, past_key_values=cache, **GREEDY).sequences, expected)


def test_an_assistant_of_another_vocabulary() -> None:
    base, arm, other = tiny("llama"), tiny("llama", seed=1), tiny("llama", seed=2, vocab_size=VOCAB + 16)
    fed = count_forwards(base, arm, other)
    with pytest.raises(ValueError, match="different tokenizers"):
        base.generate(**prompts(1), reward_models=[arm], alpha=1.0, assistant_model=other, **GREEDY)
    assert fed == [[], [], []]
