"""What every test may use. Servers are real; each xdist worker has a database, Redis prefix, directory and ports of its own."""

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings

from config.settings.base import database
from tests import servers

TESTS = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    """The controller of xdist starts the servers, before the workers copy its environment."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        servers.postgres_url()
        servers.redis_url()


KINDS = ("end_to_end", "browser", "faults")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests are marked by the directory they lie in."""
    for item in items:
        for kind in KINDS:
            if (TESTS / kind) in item.path.parents:
                item.add_marker(kind)
                if item.get_closest_marker("timeout") is None:
                    item.add_marker(pytest.mark.timeout(600))  # a portal has to start first


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be skipped for want of a part."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI doesn't accept: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The address of a real PostgreSQL; tests get databases of their own on it."""
    return servers.postgres_url()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: str, django_db_modify_db_settings_parallel_suffix: None) -> None:
    """pytest-django's hook before it makes the test database: point Django at the server that runs now."""
    found = database(postgres_server)
    for key in ("USER", "PASSWORD", "HOST", "PORT", "OPTIONS"):
        settings.DATABASES["default"][key] = found[key]
    settings.DATABASE_URL = postgres_server


@pytest.fixture(scope="session")
def redis_server() -> str:
    """The address of a real Redis, also in `settings.REDIS_URL`. Keys start with `settings.REDIS_PREFIX`."""
    settings.REDIS_URL = url = servers.redis_url()
    return url


@pytest.fixture
def redis_client(redis_server: str) -> Iterator[redis.Redis]:
    """A client; what the test wrote under this process's prefix is deleted after it."""
    client = redis.Redis.from_url(redis_server)
    yield client
    keys = list(client.scan_iter(match=f"{settings.REDIS_PREFIX}*", count=1000))
    if keys:
        client.delete(*keys)
    client.close()


@pytest.fixture(scope="session", autouse=True)
def _var_dir() -> Iterator[None]:
    """VAR_DIR of this process, made before the first test and removed after the last."""
    settings.VAR_DIR.mkdir(parents=True, exist_ok=True)
    settings.VAR_DIR.chmod(0o755)
    settings.STATIC_ROOT.mkdir(exist_ok=True)  # WhiteNoise warns when it's missing
    yield
    shutil.rmtree(settings.VAR_DIR, ignore_errors=True)


@pytest.fixture
def ports() -> Callable[[int], list[int]]:
    """Free ports of this xdist worker's block: `ports(2)`."""
    from config.processes import port_is_free

    first = 21_000 + 200 * settings.WORKER

    def take(count: int) -> list[int]:
        free = [port for port in range(first, first + 200) if port_is_free("127.0.0.1", port)]
        return free[:count]

    return take
