"""How pairs are laid out in rows, by hand and for random pairs."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genarm_hf.training.batches import PROMPT, PairCollator, _fill

PAIRS = [
    {"prompt_ids": [1, 6], "chosen_ids": [2], "rejected_ids": [8, 2]},
    {"prompt_ids": [1, 3, 4], "chosen_ids": [7, 5, 2], "rejected_ids": [9, 2]},
    {"prompt_ids": [1], "chosen_ids": [5], "rejected_ids": [6]},
]


def test_one_pair_by_hand() -> None:
    (part,) = PairCollator(0)(PAIRS[1:2])["parts"]
    assert part["input_ids"].tolist() == [[1, 3, 4, 7, 5, 2, 9, 2]]
    assert part["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 3, 4]]
    assert part["branches"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]
    assert part["segments"].tolist() == [[1] * 8]
    assert part["targets"].tolist() == [7, 5, 2, 9, 2]
    assert part["predict_at"].tolist() == [2, 3, 4, 2, 6]  # the prompt's last token predicts both first ones
    assert part["response_lengths"].tolist() == [[3, 2]]


def test_short_pairs_share_a_row() -> None:
    batch = PairCollator(pad_token_id=47)(PAIRS)
    (part,) = batch["parts"]
    assert batch["order"].tolist() == [1, 0, 2]  # the longest first
    assert part["input_ids"].tolist() == [[1, 3, 4, 7, 5, 2, 9, 2], [1, 6, 2, 8, 2, 1, 5, 6]]
    assert part["segments"].tolist() == [[1] * 8, [1] * 5 + [2] * 3]
    assert part["position_ids"].tolist()[1] == [0, 1, 2, 2, 3, 0, 1, 1]
    assert part["predict_at"].tolist() == [2, 3, 4, 9, 13, 2, 6, 9, 11, 13]


def test_separate_rows_by_hand() -> None:
    (part,) = PairCollator(pad_token_id=47, share_prompts=False)(PAIRS[:2])["parts"]
    assert part["input_ids"].tolist() == [
        [1, 3, 4, 7, 5, 2],
        [1, 6, 2, 47, 47, 47],
        [1, 3, 4, 9, 2, 47],
        [1, 6, 8, 2, 47, 47],
    ]
    assert part["segments"].tolist()[1] == [1, 1, 1, 0, 0, 0]
    assert part["predict_at"].tolist() == [2, 3, 4, 7, 14, 15, 19, 20]
    assert part["targets"].tolist() == [7, 5, 2, 2, 9, 2, 8, 2]


def test_numbers_of_pairs_follow_them() -> None:
    rows = [row | {"margin": float(i), "weight": 0.5 + i} for i, row in enumerate(PAIRS)]
    (part,) = PairCollator(0)(rows)["parts"]
    assert part["margin"].tolist() == [1.0, 0.0, 2.0] and part["weight"].tolist() == [1.5, 0.5, 2.5]
    assert "score_difference" not in part


def test_parts_hold_no_more_than_asked() -> None:
    batch = PairCollator(0, max_tokens=8)(PAIRS)
    assert [part["input_ids"].numel() for part in batch["parts"]] == [8, 5, 3]
    one_each = PairCollator(0, max_tokens=1)(PAIRS)  # what is longer than that is read alone
    assert [len(part["response_lengths"]) for part in one_each["parts"]] == [1, 1, 1]


@pytest.mark.parametrize("column", ["prompt_ids", "chosen_ids", "rejected_ids"])
def test_empty_stretches_are_refused(column: str) -> None:
    with pytest.raises(ValueError, match="at least one id"):
        PairCollator(0)([PAIRS[0] | {column: []}])


def test_first_fit() -> None:
    assert _fill([6, 4, 3, 2]) == [[0], [1, 3], [2]]
    assert _fill([5]) == [[0]]


ids = st.lists(st.integers(3, 47), min_size=1, max_size=9)
random_pairs = st.lists(
    st.fixed_dictionaries({"prompt_ids": ids, "chosen_ids": ids, "rejected_ids": ids}), min_size=1, max_size=9
)


@settings(max_examples=150, deadline=None)
@given(rows=random_pairs, share=st.booleans(), max_tokens=st.none() | st.integers(1, 80))
def test_every_layout_holds_every_pair(rows: list[Any], share: bool, max_tokens: int | None) -> None:
    batch = PairCollator(0, share, max_tokens)(rows)
    assert sorted(batch["order"].tolist()) == list(range(len(rows)))
    places = iter(batch["order"].tolist())
    for part in batch["parts"]:
        pairs = [rows[next(places)] for _ in part["response_lengths"]]
        if max_tokens is not None and len(pairs) > 1:
            assert part["input_ids"].numel() <= max_tokens
        tokens = sum(len(p["prompt_ids"]) * (2 - share) + len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
        assert int((part["segments"] > 0).sum()) == tokens
        responses = [pair[name] for name in ("chosen_ids", "rejected_ids") for pair in pairs]
        assert part["targets"].tolist() == [token for response in responses for token in response]
        before = [(p["prompt_ids"] + p[name])[:-1] for name in ("chosen_ids", "rejected_ids") for p in pairs]
        ends = [context[len(context) - len(r) :] for context, r in zip(before, responses, strict=True)]
        assert part["input_ids"].flatten()[part["predict_at"]].tolist() == [token for end in ends for token in end]
        positions = [k for c, r in zip(before, responses, strict=True) for k in range(len(c) - len(r), len(c))]
        assert part["position_ids"].flatten()[part["predict_at"]].tolist() == positions
        assert not ((part["segments"] == 0) & (part["branches"] != PROMPT)).any()


def test_padding_of_a_random_batch_is_small() -> None:
    """What packing is for: separate rows of these lengths are mostly padding."""
    prompts = (40, 60, 80, 112, 112, 150, 220, 380)
    rows = [{"prompt_ids": [5] * size, "chosen_ids": [6] * 40, "rejected_ids": [7] * 36} for size in prompts]
    (packed,), (separate,) = PairCollator(0)(rows)["parts"], PairCollator(0, share_prompts=False)(rows)["parts"]
    real = int((packed["segments"] > 0).sum())
    assert real / packed["input_ids"].numel() > 0.75
    assert packed["input_ids"].numel() < 0.5 * separate["input_ids"].numel()
