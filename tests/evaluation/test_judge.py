"""Judges say who is better, in whatever order they are asked; what they do not say is a failure and never a tie."""

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import LlamaForSequenceClassification

from genarm_hf import AutoregressiveRewardModel, playground
from genarm_hf.evaluation import EndpointJudge, judge_pairs, outcomes, reward_judge, score_judge, win_rates
from genarm_hf.evaluation.judge import EndpointError, classifier_rewards

from ..conftest import tiny

# ---------------------------------------------------------------------- scores and reward models


def test_a_score_judges_with_tolerance():
    judge = score_judge(lambda prompt, reply: len(reply), tolerance=1)
    assert [judge("", a, b).outcome for a, b in (("xxx", "x"), ("x", "xxx"), ("xx", "x"))] == [1, -1, 0]
    assert judge("", "xxx", "x").details == {"scores": [3.0, 1.0]}


def test_a_score_that_is_none_is_a_failure():
    assert math.isnan(score_judge(lambda prompt, reply: math.nan)("", "a", "b").outcome)

    def bad(prompt, reply):
        raise ValueError("no such request")

    verdict = score_judge(bad)("", "a", "b")
    assert math.isnan(verdict.outcome) and verdict.failure == "no score: no such request"


def test_the_oracle_of_the_playground_judges():
    prompt = playground.prompts(1, seed=0)[0]
    short, long = "Good luck with it.", "Good luck with it. " * 8
    judge = score_judge(lambda prompt, reply: playground.score("brief", prompt, reply))
    better = playground.score("brief", prompt, short) > playground.score("brief", prompt, long)
    assert judge(prompt, short, long).outcome == (1 if better else -1) == -judge(prompt, long, short).outcome


def test_reward_models_judge_by_their_rewards():
    tokenizer = playground.load_tokenizer()
    arm = AutoregressiveRewardModel.from_backbone(tiny(vocab_size=len(tokenizer)))
    replies = ["Good luck with it.", "No."]
    rewards = arm.score(tokenizer, "Hi", replies).tolist()
    verdict = reward_judge(arm, tokenizer)("Hi", *replies)
    assert verdict.outcome == (1 if rewards[0] > rewards[1] else -1)
    assert verdict.details["scores"] == pytest.approx(rewards, abs=1e-5)


@pytest.mark.parametrize("pad", [None, 0])
def test_classifiers_judge_by_their_logit(pad):
    tokenizer = playground.load_tokenizer()
    config = tiny(vocab_size=len(tokenizer), num_labels=1).config
    config.pad_token_id = pad
    model = LlamaForSequenceClassification(config).eval()
    replies = ["Good luck with it.", "No.", "Yes, of course."]
    rewards = classifier_rewards(model, tokenizer, "Hi. ", replies, batch_size=2)
    for reply, reward in zip(replies, rewards, strict=True):
        ids = torch.tensor([[*tokenizer("Hi. " + reply)["input_ids"], tokenizer.eos_token_id]])
        with torch.no_grad():
            assert reward == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-5)
    assert reward_judge(model, tokenizer)("Hi. ", *replies[:2]).outcome == (1 if rewards[0] > rewards[1] else -1)
    config.num_labels = 2
    with pytest.raises(ValueError, match="must have one label, got 2"):
        reward_judge(model, tokenizer)


def test_pairs_keep_their_order_and_failures_are_counted():
    def judge(prompt, a, b):
        time.sleep(0.02 if prompt == "0" else 0)
        return score_judge(lambda prompt, reply: float(reply))(prompt, a, b)

    told = []
    verdicts = judge_pairs(judge, list("0123"), ["1", "0", "1", "nan"], ["0", "1", "1", "1"], 4, told.append)
    assert outcomes(verdicts)[:3].tolist() == [1, -1, 0] and sum(told) == 4
    rates = win_rates(outcomes(verdicts))
    assert (rates.failed, rates.win_rate.mean, rates.tie.mean) == (1, 0.5, 1 / 3)
    with pytest.raises(ValueError, match="one length, got 1, 2 and 1"):
        judge_pairs(judge, [""], ["", ""], [""])


# ---------------------------------------------------------------------- an endpoint


@contextmanager
def endpoint(answer) -> Iterator[tuple[str, list[dict]]]:
    """A server in a thread: `answer(body, number)` gives text, a status, or bytes; gives address and requests."""
    asked: list[dict] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append(body | {"path": self.path, "authorization": self.headers.get("Authorization")})
                number = len(asked)
            said = answer(body, number)
            status, headers = (said, {}) if isinstance(said, int) else (200, {})
            if isinstance(said, tuple):
                status, headers = said
            if isinstance(said, str):
                said = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            content = said if isinstance(said, bytes) else b"{}"
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(answer, a="good", b="bad", **options):
    with endpoint(answer) as (url, asked):
        verdict = EndpointJudge(url, "judge", **{"backoff": 0.001, "timeout": 5.0, **options})("Say {hi}", a, b)
    return verdict, asked


def by_content(body, number):
    """A judge that prefers what says good, wherever it stands."""
    text = body["messages"][0]["content"]
    return "I think so. [[A]]" if text.index("good") < text.index("bad") else "[[B]] it is."


def test_the_better_reply_wins_wherever_it_stands(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert ask(by_content, "good", "bad")[0].outcome == 1
    verdict, asked = ask(by_content, "bad", "good", request={"max_tokens": 99})
    assert verdict.outcome == -1 and verdict.details["orders"] == [-1.0, -1.0]
    assert len(asked) == 2 and {one["path"] for one in asked} == {"/v1/chat/completions"}
    assert asked[0]["model"] == "judge" and asked[0]["temperature"] == 0 and asked[0]["max_tokens"] == 99
    assert asked[0]["authorization"] is None
    first, second = (one["messages"][0]["content"] for one in asked)
    assert first != second and first.index("bad") < first.index("good") and second.index("good") < second.index("bad")
    assert "Say {hi}" in first


def test_a_judge_that_favours_a_position_finds_ties():
    for said in ("[[A]]", "[[B]]"):
        verdict, asked = ask(lambda body, number, said=said: said)
        assert (verdict.outcome, verdict.failure, len(asked)) == (0, "", 2)


@pytest.mark.parametrize(
    ("said", "outcome"),
    [(["[[C]]", "[[C]]"], 0), (["[[A]]", "[[C]]"], 0), (["[[C]]", "[[A]]"], 0), (["[[A]]", "[[B]]"], 1)],
)
def test_only_both_orders_make_a_win(said, outcome):
    assert ask(lambda body, number: said[number - 1])[0].outcome == outcome


@pytest.mark.parametrize("said", ["A is better", "", "[[D]]", "[[A]] or [[B]]?", "[A]", "[[a]]"])
def test_an_answer_without_a_single_verdict_is_a_failure(said):
    verdict, asked = ask(lambda body, number: said)
    assert math.isnan(verdict.outcome) and verdict.failure == "as given: no single verdict"
    assert verdict.details["answers"] == [said] and len(asked) == 1
    verdict, _ = ask(lambda body, number: "[[A]]" if number == 1 else said)
    assert math.isnan(verdict.outcome) and verdict.failure == "swapped: no single verdict"


@pytest.mark.parametrize(
    "said", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[]"]
)
def test_a_response_that_is_no_answer_is_a_failure(said):
    verdict, asked = ask(lambda body, number: said)
    assert (
        math.isnan(verdict.outcome)
        and verdict.failure.startswith("as given: no answer, status 200")
        and len(asked) == 1
    )


def test_the_same_verdict_twice_is_one():
    assert ask(lambda body, number: "[[A]] ... so [[A]]" if number == 1 else "[[B]]")[0].outcome == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_overload_is_waited_out(status):
    verdict, asked = ask(lambda body, number: status if number in (1, 2, 4) else by_content(body, number))
    assert verdict.outcome == 1 and len(asked) == 5


def test_waits_double_and_the_server_may_ask_for_longer(monkeypatch):
    waits = []
    monkeypatch.setattr("genarm_hf.evaluation.judge.time.sleep", waits.append)
    headers = {3: {"Retry-After": "7"}, 4: {"Retry-After": "999"}, 5: {"Retry-After": "soon"}}
    verdict, asked = ask(lambda body, number: (429, headers.get(number, {})), backoff=0.5)
    assert waits == [0.5, 1, 7, 60, 8] and len(asked) == 6
    assert math.isnan(verdict.outcome) and "status 429" in verdict.failure


def test_a_slow_server_is_given_up():
    def slow(body, number):
        time.sleep(0.2 if number <= 2 else 0)
        return by_content(body, number)

    verdict, asked = ask(slow, timeout=0.05, retries=1)
    assert math.isnan(verdict.outcome) and "ReadTimeout" in verdict.failure and len(asked) == 2


def test_a_server_that_is_not_there_is_a_failure():
    verdict = EndpointJudge("http://127.0.0.1:9/v1", "judge", retries=1, backoff=0.001)("", "a", "b")
    assert math.isnan(verdict.outcome) and "ConnectError" in verdict.failure


@pytest.mark.parametrize("status", [401, 403, 404, 307])
def test_an_endpoint_that_refuses_all_requests_is_an_error(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with endpoint(lambda body, number: (status, {"Location": "http://elsewhere"})) as (url, asked):
        judge = EndpointJudge(url, "judge", key="MY_KEY")
        with pytest.raises(EndpointError, match=rf"'judge' \(MY_KEY is set\): status {status}") as error:
            judge_pairs(judge, [""] * 9, ["a"] * 9, ["b"] * 9)
    assert len(asked) < 9 and asked[0]["authorization"] == "Bearer secret"
    assert "secret" not in f"{error.value}{judge}"


def test_other_refusals_are_failures_of_the_pair():
    verdict, asked = ask(lambda body, number: 400)
    assert math.isnan(verdict.outcome) and "status 400" in verdict.failure and len(asked) == 1


def test_replies_are_not_read_as_templates():
    verdict, asked = ask(lambda body, number: "[[C]]", a="{reply_b} {prompt} \\1", b="unseen")
    assert "{reply_b} {prompt} \\1\n[End of the reply of assistant A]" in asked[0]["messages"][0]["content"]


def test_several_at_once():
    with endpoint(by_content) as (url, asked):
        pairs = [("good", "bad"), ("bad", "good")] * 6
        verdicts = judge_pairs(EndpointJudge(url, "judge"), ["?"] * 12, *zip(*pairs, strict=True), workers=6)
    assert outcomes(verdicts).tolist() == [1, -1] * 6 and len(asked) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{prompt}"}, r"`template` must hold \{reply_a\}, \{reply_b\}"),
        ({"url": "localhost:8000"}, "`url` must be an address"),
        ({"retries": -1}, "`retries` at least 0"),
        ({"timeout": 0}, "`timeout` above 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EndpointJudge(**{"url": "http://localhost/v1", "model": "judge", **options})
