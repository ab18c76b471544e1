"""What a request may say, and the processor under both of vLLM's runners, without an engine."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")

from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

from genarm_hf.integrations.vllm import processor
from genarm_hf.integrations.vllm.rewards import Rewards

from .conftest import params

VOCAB = 4


@pytest.fixture
def config():
    """What the processor reads of vLLM's configuration: two reward models at 1 and 0.5."""
    found = {"alphas": [1.0, 0.5]}
    hf_config = SimpleNamespace(genarm_found=found)
    config = SimpleNamespace(model_config=SimpleNamespace(hf_config=hf_config), instance_id=str(id(found)))
    yield config
    processor.Rewards.of(config).rows = None


def rewards(rows: int) -> list[torch.Tensor]:
    """10 and 100 times the number of the row, so that a result shows what it is made of."""
    row = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, VOCAB)
    return [10 * row, 100 * row]


def v1(config):
    return processor.AlphaProcessor2(config, torch.device("cpu"), False)


def v2(config, slots=6):
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=slots)
    return processor.AlphaProcessor2(config, states)


def guided(config, instance, rows, ctx=None):
    """First logits of each row; base logits are 0."""
    Rewards.of(config).put(rewards(rows))
    logits = torch.zeros(rows, VOCAB)
    found = instance.apply(logits) if ctx is None else instance.apply(logits, ctx)
    assert torch.equal(found, found[:, :1].expand_as(found))
    return found[:, 0].tolist()


def added(**requests):
    return [(int(row[1:]), params(alpha), None, []) for row, alpha in requests.items()]


# ---------------------------------------------------------------------- what a request may say


@pytest.mark.parametrize("alpha", [0, 1, -0.5, 0.25, [0.8, 0.2], (1, -1), [0, 0]])
def test_alphas_that_can_be_followed(alpha):
    processor.AlphaProcessor2.validate_params(params(alpha))


@pytest.mark.parametrize("alpha", [[1.0], [1, 2, 3], [], "0.5", [0.5, "1"], float("nan"), [1, float("inf")], True, {}])
def test_alphas_that_cannot(alpha):
    with pytest.raises(ValueError, match="`alpha` must be a finite number, or a list of 2"):
        processor.AlphaProcessor2.validate_params(params(alpha))


def test_no_alpha_is_the_compositions(config):
    processor.AlphaProcessor2.validate_params(params())
    instance = v1(config)
    instance.update_state(BatchUpdate(2, removed=[], added=added(r0=None, r1=None), moved=[]))
    assert guided(config, instance, 2) == [0, 1 * 10 + 0.5 * 100]


@pytest.mark.parametrize("key", ["alphas", "Alpha", "aplha", "alhpa"])
def test_a_misspelt_alpha_is_not_ignored(key):
    with pytest.raises(ValueError, match=f"`{key}` is not an argument"):
        processor.AlphaProcessor2.validate_params(params(extra_args={key: 1.0}))


def test_arguments_of_others_are_left_alone():
    processor.AlphaProcessor2.validate_params(params(extra_args={"kv_transfer_params": {}, "session_id": "a"}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt_logprobs": 0}, "those of the base alone"),
        ({"logprobs": 8, "tokens": 1, "detokenize": False}, "beam search does not pass alpha on"),
    ],
)
def test_what_guidance_would_not_reach_is_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        processor.AlphaProcessor2.validate_params(params(**changes))


def test_beams_of_vllm_are_recognised():
    """They are requests for one token, made without the user's arguments."""
    import inspect

    from vllm.entrypoints.generate.beam_search import offline, online

    for module in (offline, online):
        source = inspect.getsource(module)
        assert "max_tokens=1," in source and "detokenize=False," in source and "extra_args" not in source


# ---------------------------------------------------------------------- rows of the batch (V1)


def test_rows_are_followed_as_they_come_move_and_go(config):
    instance = v1(config)
    instance.update_state(BatchUpdate(3, removed=[], added=added(r0=[1, 0], r1=0, r2=[0, 1]), moved=[]))
    assert guided(config, instance, 3) == [0, 0, 200]
    instance.update_state(BatchUpdate(3, [], [], [(1, 2, MoveDirectionality.SWAP)]))
    assert guided(config, instance, 3) == [0, 100, 0]
    instance.update_state(BatchUpdate(2, [0], [], [(2, 0, MoveDirectionality.UNIDIRECTIONAL)]))
    assert guided(config, instance, 2) == [0, 100]
    instance.update_state(BatchUpdate(2, [1], added(r1=[2, 2]), []))
    assert guided(config, instance, 2) == [0, 220]
    instance.update_state(None)
    assert guided(config, instance, 2) == [0, 220]
    instance.update_state(BatchUpdate(3, [], added(r2=0), []))
    assert guided(config, instance, 3) == [0, 220, 0]


def test_a_batch_without_guided_requests_keeps_its_logits(config):
    instance = v1(config)
    instance.update_state(BatchUpdate(2, [], added(r0=0, r1=[0, 0.0]), []))
    Rewards.of(config).put(rewards(2))
    logits = torch.randn(2, VOCAB)
    assert instance.apply(logits) is logits
    assert not instance.is_argmax_invariant()


# ---------------------------------------------------------------------- slots of requests (V2)


def test_rows_find_the_slots_of_their_requests(config):
    instance = v2(config)
    assert instance.add_request(4, params([1, 0])) and instance.add_request(0, params([0, 1]))
    assert not instance.add_request(2, params(0))
    ctx = SimpleNamespace(expanded_idx_mapping=torch.tensor([2, 4, 0, 4], dtype=torch.int32))
    assert guided(config, instance, 4, ctx) == [0, 10, 200, 30]
    # a slot that is used again has nothing of its last request
    assert not instance.add_request(4, params(0))
    assert guided(config, instance, 4, ctx) == [0, 0, 200, 0]


# ---------------------------------------------------------------------- never unguided in silence


def test_a_model_without_a_processor_is_an_error(config):
    with pytest.raises(RuntimeError, match="has not loaded the logits processor"):
        Rewards().require_reader()
    v1(config)
    Rewards.of(config).require_reader()


def test_a_step_without_rewards_is_an_error(config):
    instance = v1(config)
    instance.update_state(BatchUpdate(1, [], added(r0=1.0), []))
    assert guided(config, instance, 1)
    with pytest.raises(RuntimeError, match="out of step"):
        instance.apply(torch.zeros(1, VOCAB))


def test_rewards_of_other_rows_are_an_error(config):
    instance = v1(config)
    Rewards.of(config).put(rewards(3))
    with pytest.raises(RuntimeError, match="out of step"):
        instance.apply(torch.zeros(2, VOCAB))


def test_a_token_that_a_reward_model_lacks_is_masked_where_it_guides(config):
    instance = v1(config)
    instance.update_state(BatchUpdate(2, [], added(r0=0, r1=[-1, 0]), []))
    lacking = torch.zeros(2, VOCAB)
    lacking[:, 3] = float("-inf")
    Rewards.of(config).put([lacking, torch.zeros(2, VOCAB)])
    found = instance.apply(torch.ones(2, VOCAB))
    assert found[0].tolist() == [1, 1, 1, 1]
    assert found[1].tolist() == [1, 1, 1, float("-inf")]


def test_other_names_are_no_processors():
    for name in ("AlphaProcessor", "AlphaProcessorX", "Nonsense"):
        if name != "AlphaProcessor":
            with pytest.raises(AttributeError):
                getattr(processor, name)
    assert processor.AlphaProcessor3.arms == 3 and processor.AlphaProcessor3 is processor.AlphaProcessor3
