"""The default models are trained once, and judged exactly."""

from genarm_hf import playground
from genarm_hf.app.playground import OBJECTIVES, REQUESTS, cache_folder, judge, open_playground, understands


def test_trained_once(trained):
    folder, first, said = trained
    assert first.objectives == OBJECTIVES and first.quick
    assert "once" in said[0] and len(said) == 1 + len(OBJECTIVES)
    open_playground(folder, pairs=2, say=said.append)
    assert len(said) == 1 + len(OBJECTIVES)


def test_adapters_share_the_bases_weights(playground_ensemble):
    for arm in playground_ensemble.arms:
        assert arm.causal_lm.get_input_embeddings().weight is playground_ensemble.base.get_input_embeddings().weight


def test_the_judge_is_the_oracle():
    text = playground.PROMPT_TEMPLATE.format(prompt=REQUESTS["a wild snake"])
    reply = "I must refuse this request."
    assert judge(text, reply) == [playground.score(name, text, reply) for name in OBJECTIVES]
    assert judge("User: Who was Bach? Assistant:", reply) is None


def test_every_request_on_the_page_is_understood():
    assert all(map(understands, REQUESTS.values()))


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("GENARM_HF_APP", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "genarm_hf" / "app"
    monkeypatch.setenv("GENARM_HF_APP", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
