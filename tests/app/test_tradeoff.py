"""The picture's numbers: which settings, and what replies there are worth."""

from dataclasses import replace

import pytest

from genarm_hf.app.credit import token_rewards
from genarm_hf.app.tradeoff import judged, measure, settings, unit
from genarm_hf.app.writing import Manner

from .conftest import REQUEST

SHORT = Manner(max_new_tokens=6, pace=0)


def test_settings_of_three_leave_the_third_at_rest():
    assert settings(3, 1.0)[:3] == [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.75, 0.25, 0.0)]


def test_worth_is_what_the_reward_models_add_up_to(tiny_ensemble):
    asked, replies = tiny_ensemble.ask(REQUEST), [[9, 30, 2], [7]]
    rewards, habits = token_rewards(tiny_ensemble, asked, replies)
    worth = judged(tiny_ensemble, asked, replies)
    assert worth[1] == pytest.approx((rewards[:, 1, 0] - habits[1, 0]).tolist(), abs=1e-5)
    assert unit(tiny_ensemble, asked) == "nats over the base"


def test_a_judge_is_asked_first_and_may_decline(tiny_ensemble):
    asked = tiny_ensemble.ask(REQUEST)

    def counting(text, reply):
        return [float(len(reply.split())), 0.0] if text == REQUEST else None

    known = replace(tiny_ensemble, judge=counting)
    assert judged(known, asked, [[9, 30, 2], [7]]) == [[2.0, 0.0], [1.0, 0.0]]
    assert unit(known, asked) == "points"
    other = known.ask("w9")
    assert unit(known, other) == "nats over the base"
    assert judged(known, other, [[9]]) == judged(tiny_ensemble, other, [[9]])


def test_each_setting_gets_its_own_replies(tiny_ensemble):
    """Greedy: all replies to a setting are one, whose worth is known from a batch of its own."""
    asked, alphas = tiny_ensemble.ask(REQUEST), [(0.0, 0.0), (2.0, 1.0)]
    greedy = replace(SHORT, temperature=0)
    points = measure(tiny_ensemble, asked, alphas, greedy, replies=3)
    assert [point.alpha for point in points] == alphas
    assert all(interval.count == 3 for point in points for interval in point.worth)
    assert all(interval.half_width == pytest.approx(0, abs=1e-4) for point in points for interval in point.worth)
    for point, alpha in zip(points, alphas, strict=True):
        (alone,) = measure(tiny_ensemble, asked, [alpha], greedy, replies=2)
        assert [i.mean for i in point.worth] == pytest.approx([i.mean for i in alone.worth], abs=1e-3)
    assert points[0].worth[0].mean != pytest.approx(points[1].worth[0].mean, abs=1e-3)
