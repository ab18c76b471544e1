"""What the server of transformers is told about guidance; `tests/vllm` starts it for real."""

import sys
from types import SimpleNamespace

import pytest

from genarm_hf.integrations.transformers_serve import _refuse_decisions, guide_requests


class HTTPException(Exception):
    def __init__(self, status_code, detail):
        super().__init__(detail)
        self.status_code = status_code


@pytest.fixture(autouse=True)
def fastapi(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", SimpleNamespace(HTTPException=HTTPException))


@pytest.fixture
def handler():
    """As transformers' `BaseHandler`: it knows its fields, and makes a new config of each request."""

    class Handler:
        def _validate_request(self, body):
            assert body.keys() <= {"model", "prompt"}, "an unknown field"

        def _build_generation_config(self, body, default, use_cb=False):
            return SimpleNamespace(**vars(default))

    guide_requests(Handler, ["helpful", "harmless"], (1.0, 0.5))
    return Handler()


def build(handler, **body):
    return handler._build_generation_config(body, SimpleNamespace(max_new_tokens=3))


def test_every_request_is_guided_with_its_own_alpha(handler):
    assert vars(build(handler)) == {"max_new_tokens": 3, "reward_models": ["helpful", "harmless"], "alpha": [1.0, 0.5]}
    assert build(handler, vllm_xargs={"alpha": 0.2}).alpha == [0.2, 0.2]
    assert build(handler, vllm_xargs={"alpha": [0, -1]}).alpha == [0.0, -1.0]


def test_other_fields_are_left_to_the_server(handler):
    body = {"model": "m", "vllm_xargs": {"alpha": 1}}
    handler._validate_request(body)
    assert "vllm_xargs" in body
    with pytest.raises(AssertionError, match="unknown field"):
        handler._validate_request({"alpha": 1})


@pytest.mark.parametrize("extra", [{"alpha": [1.0]}, {"alpha": "1"}, {"alhpa": 1}, "alpha", {"alpha": float("nan")}])
def test_a_bad_alpha_is_a_400(handler, extra):
    with pytest.raises(HTTPException, match="alpha") as caught:
        handler._validate_request({"vllm_xargs": extra})
    assert caught.value.status_code == 400


def test_continuous_batching_is_refused(handler):
    with pytest.raises(ValueError, match="no guidance"):
        handler._build_generation_config({}, SimpleNamespace(), use_cb=True)


def test_the_endpoint_that_passes_generate_by_is_refused(monkeypatch):
    class SystemOneHandler:
        pass

    module = SimpleNamespace(SystemOneHandler=SystemOneHandler)
    monkeypatch.setattr("genarm_hf.integrations.transformers_serve.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "transformers.cli.serving.systemone", module)
    _refuse_decisions()
    with pytest.raises(HTTPException, match="unguided"):
        SystemOneHandler()._validate_request({})
