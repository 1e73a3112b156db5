"""The engine's tests need neither Django nor Redis: tiny SavedModels, built once and kept in pytest's cache."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.engine.registry import LoadRequest
from serving.engine.servable import Servable
from serving.engine.tensorflow_servable import TensorflowLoader
from tests.models import build_models
from tests.serving.engine.servables import LoadModel

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def models(pytestconfig: pytest.Config) -> dict[str, str]:
    """Base paths of the test models by name."""
    cache = pytestconfig.cache
    assert cache is not None
    return build_models(Path(cache.mkdir("models")))


@pytest.fixture
def load_model(models: dict[str, str]) -> Iterator[LoadModel]:
    """Loads a test model through the C API; what was loaded is unloaded after the test."""
    loader = TensorflowLoader()
    loaded: list[Servable] = []

    def load(name: str, version: int = 1, tags: tuple[str, ...] = ("serve",)) -> Servable:
        servable = loader.load(LoadRequest(name, version, f"{models[name]}/{version}", tags))
        loaded.append(servable)
        return servable

    yield load
    for servable in loaded:
        servable.unload()
