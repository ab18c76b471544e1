"""Models that answer in milliseconds: tiny random ones, and the playground with hardly trained reward models."""

import pytest

from genarm_hf.app.ensemble import Ensemble, load
from genarm_hf.app.playground import open_playground

from ..cli.conftest import arm_dir, base_dir, lora_dir  # noqa: F401 - fixtures

REQUEST = "w5 w6 w7"


@pytest.fixture(scope="session")
def tiny_ensemble(base_dir, arm_dir, lora_dir) -> Ensemble:  # noqa: F811
    """A reward model with weights of its own and one on the base's, two objectives."""
    return load(str(base_dir), [str(arm_dir), str(lora_dir)], "float32", "cpu")


@pytest.fixture(scope="session")
def playground_ensemble(tmp_path_factory) -> Ensemble:
    return open_playground(tmp_path_factory.mktemp("app"), pairs=8, say=lambda text: None)
