"""Replies side by side are those of plain `generate()`, and a slider acts on the very next token."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from genarm_hf.app import writing
from genarm_hf.app.writing import Dials, Manner, ends_of, write

from .conftest import REQUEST

GREEDY = Manner(temperature=0, max_new_tokens=10, pace=0)


def last(replies):
    *_, end = replies
    return end


def reference(ensemble, alpha):
    """Greedy ids of one row, with the prompt read anew for every token and no batch, cache or stream."""
    ids = ensemble.ask(REQUEST).inputs["input_ids"]
    start, ends = ids.shape[1], ends_of(ensemble)
    while ids.shape[1] < start + GREEDY.max_new_tokens and ids[0, -1].item() not in ends:
        here = alpha(ids.shape[1] - start)
        logits = ensemble.base(ids).logits[0, -1].float()
        for strength, arm in zip(here, ensemble.arms, strict=True):
            logits = logits + strength * arm(ids).logits[0, -1].float().log_softmax(-1)
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
    return ids[0, start:].tolist()


@torch.no_grad()
def test_each_reply_is_that_of_its_own_alpha(tiny_ensemble):
    replies = last(write(tiny_ensemble, tiny_ensemble.ask(REQUEST), Dials((0.8, -0.5)), GREEDY, (0.0, 1.0, 2.0)))
    for reply in replies:
        assert reply.ids == reference(tiny_ensemble, lambda step, s=reply.strength: (s * 0.8, s * -0.5))
        assert reply.alphas == [(reply.strength * 0.8, reply.strength * -0.5)] * len(reply.ids)
        assert reply.text == tiny_ensemble.tokenizer.decode(reply.ids, skip_special_tokens=True)
    assert replies[0].ids != replies[2].ids


@torch.no_grad()
@pytest.mark.parametrize("moved_at", [1, 4])
def test_a_slider_acts_on_the_next_token(tiny_ensemble, monkeypatch, moved_at):
    before, after, dials = (0.0, 0.0), (3.0, 2.0), Dials((0.0, 0.0))
    seen = threading.Semaphore(0)
    # instead of a pause, the writer waits until its last token was seen, however busy the machine is
    clock = SimpleNamespace(sleep=lambda seconds: seen.acquire(timeout=30), monotonic=time.monotonic)
    monkeypatch.setattr(writing, "time", clock)
    for replies in write(tiny_ensemble, tiny_ensemble.ask(REQUEST), dials, GREEDY, (1.0,)):
        if len(replies[0].ids) == moved_at:
            dials.values = after
        seen.release()
    (reply,) = replies
    assert reply.ids == reference(tiny_ensemble, lambda step: before if step < moved_at else after)
    assert reply.alphas[:moved_at] == [before] * moved_at and set(reply.alphas[moved_at:]) == {after}


def test_seeds_mean_something_and_leave_the_callers_random_numbers_alone(tiny_ensemble):
    manner, asked, dials = Manner(max_new_tokens=8, pace=0), tiny_ensemble.ask(REQUEST), Dials((1.0, 1.0))
    state = torch.get_rng_state()
    one, again, other = (
        [reply.ids for reply in last(write(tiny_ensemble, asked, dials, replace(manner, seed=seed)))]
        for seed in (1, 1, 2)
    )
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_who_stops_reading_stops_the_writing(tiny_ensemble):
    writers = threading.active_count()
    growing = write(tiny_ensemble, tiny_ensemble.ask(REQUEST), Dials((1.0, 1.0)), replace(GREEDY, max_new_tokens=200))
    next(growing)
    growing.close()
    assert threading.active_count() == writers


def test_the_pace_is_kept(tiny_ensemble):
    started = time.monotonic()
    replies = last(write(tiny_ensemble, tiny_ensemble.ask(REQUEST), Dials((0.0, 0.0)), replace(GREEDY, pace=40)))
    assert time.monotonic() - started >= max(len(reply.ids) for reply in replies) / 40


def test_an_error_reaches_the_reader(tiny_ensemble):
    with pytest.raises(ValueError, match="position"):
        last(write(tiny_ensemble, tiny_ensemble.ask("w5 " * 300), Dials((1.0, 1.0)), GREEDY))


def test_an_empty_request_is_refused(tiny_ensemble):
    with pytest.raises(ValueError, match="request is empty"):
        tiny_ensemble.ask("  \n")


def test_characters_of_several_tokens_appear_with_the_last_of_them():
    from genarm_hf.app.writing import Reply, _new_text

    class Bytes:
        def decode(self, ids, skip_special_tokens):
            return bytes(ids).decode("utf-8", errors="replace")

    reply = Reply(1.0)
    for byte in "aé!".encode():
        reply.ids.append(byte)
        reply.pieces.append(_new_text(Bytes(), reply))
    assert reply.pieces == ["a", "", "é", "!"]
