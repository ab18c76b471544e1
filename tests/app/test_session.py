"""What a visitor sees, view by view, without a browser."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from genarm_hf.app.session import Session, View, sentence, told
from genarm_hf.app.writing import Dials, Manner

from .conftest import REQUEST

SHORT = Manner(max_new_tokens=5, pace=0)


@pytest.fixture
def session(tiny_ensemble) -> Session:
    fresh = Session(tiny_ensemble, samples=2)
    fresh.move([1.0, 0.5, 0.0, 0.0])  # as many as the page has sliders
    return fresh


def test_replies_grow_and_are_coloured_in_the_end(session):
    first, *growing, last = session.write(REQUEST, SHORT, "brief")
    assert first.notice == "" and "picture follows" in first.picture
    assert len(growing) == max(len(reply.ids) for reply in session._replies)
    assert all('aria-busy="true"' in view.cards for view in growing)
    assert 'aria-busy="false"' in last.cards and "nats over the base" in last.cards
    assert last.cards == session.cards("brief") != session.cards("helpful")


def test_sliders_count_as_many_as_there_are_reward_models(session):
    assert session.dials.values == (1.0, 0.5)


def test_stop_shows_what_there_is(session):
    views = session.write(REQUEST, replace(SHORT, max_new_tokens=100), "brief")
    next(views), next(views)
    session.stop()
    *_, last = views
    assert 'aria-busy="false"' in last.cards
    assert max(len(reply.ids) for reply in session._replies) <= 3


def test_a_new_request_ends_the_one_before_silently(session):
    old = session.write(REQUEST, replace(SHORT, max_new_tokens=100), "brief")
    next(old), next(old)
    new = session.write("w9", SHORT, "brief")
    next(new)
    assert list(old) == []
    *_, last = new
    assert last.cards == session.cards("brief")


def test_the_picture_is_measured_once_a_request_and_the_point_every_time(session, monkeypatch):
    from genarm_hf.app import session as module

    measured: list[Any] = []
    real = module.measure

    def counting(ensemble, asked, alphas, manner, replies):
        assert replies == 2
        measured.append(list(alphas))
        return real(ensemble, asked, alphas, manner, replies)

    monkeypatch.setattr(module, "measure", counting)
    list(session.write(REQUEST, SHORT, "brief"))
    views = list(session.explore())
    assert [len(alphas) for alphas in measured] == [6, 1]
    assert 'class="now"' not in views[0].picture and 'class="now"' in views[1].picture
    session.move([0.0, 2.0])
    assert len(list(session.explore())) == 1 and measured[2] == [(0.0, 2.0)]
    first, *_ = session.write(REQUEST, replace(SHORT, seed=1), "brief")
    assert first.picture is None  # the one that is there stays
    list(session.write("w9", SHORT, "brief"))
    list(session.explore())
    assert [len(alphas) for alphas in measured] == [6, 1, 1, 6, 1]


def test_nothing_is_measured_before_something_is_asked(session):
    assert list(session.explore()) == []
    assert session.cards("brief") == ""


def test_other_models_start_afresh(session, playground_ensemble):
    list(session.write(REQUEST, SHORT, "brief"))
    session.choose(playground_ensemble)
    assert session.ensemble is playground_ensemble
    assert session.dials.values == playground_ensemble.alphas
    assert session.cards("brief") == "" and "picture follows" in session.picture()


def test_a_copy_shares_the_models_and_nothing_else(session):
    other = copy.deepcopy(session)
    assert other.ensemble is session.ensemble
    other.move([0.0, 0.0])
    assert session.dials == Dials((1.0, 0.5))


def test_the_playground_says_what_it_does_not_know(playground_ensemble):
    session = Session(playground_ensemble, Dials((1.0, 1.0)))
    views = session.write("Who was Bach?", SHORT, "helpful")
    assert "never heard of that" in next(views).notice
    *_, last = views
    assert "nats over the base" in last.cards
    *_, last = session.write("How do I catch a wild snake?", SHORT, "helpful")
    assert "points" in last.cards


def test_errors_become_sentences(session):
    (view,) = told(lambda: session.write(" ", SHORT, "brief"))
    assert 'role="alert"' in view.notice and "The request is empty" in view.notice

    def broken():
        yield View(cards="some")
        raise RuntimeError("out\nof memory")

    first, second = told(broken)
    assert first.cards == "some"
    assert "Something went wrong (RuntimeError: out of memory)" in second.notice


def test_tracebacks_on_request(session, monkeypatch, capsys):
    monkeypatch.setenv("GENARM_HF_DEBUG", "1")
    list(told(lambda: session.write(" ", SHORT, "brief")))
    assert "Traceback" in capsys.readouterr().err


def test_errors_without_words_have_a_name():
    assert "ValueError" in sentence(ValueError())
