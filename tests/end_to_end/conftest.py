"""A whole portal, started once as an operator starts it, for all tests of this directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.portal import Portal, running
from tests.models import build_models


@pytest.fixture(scope="session")
def test_models(pytestconfig: pytest.Config) -> dict[str, str]:
    """Base paths of the tests' SavedModels, built once and kept between runs."""
    assert pytestconfig.cache is not None
    return build_models(Path(pytestconfig.cache.mkdir("models")))


@pytest.fixture(scope="session")
def live_portal(tmp_path_factory: pytest.TempPathFactory, test_models: dict[str, str]) -> Iterator[Portal]:
    roots = {Path(path).parent for path in test_models.values()}
    with running(tmp_path_factory.mktemp("portal"), MODEL_ROOTS=":".join(map(str, roots))) as portal:
        yield portal
