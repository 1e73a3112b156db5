"""Readers of the environment fail loudly, with the variable's name."""

from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from config import environment, files
from config.environment import BadEnvironment


def test_integer_reads_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", " 9000 ")
    assert environment.port("PORT", 8000) == 9000


def test_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")
    assert environment.port("PORT", 8000) == 8000


@pytest.mark.parametrize("value", ["eighty", "0", "65536", "8000.0", "-1"])
def test_wrong_port_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PORT", value)
    with pytest.raises(BadEnvironment, match="PORT must"):
        environment.port("PORT", 8000)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "soon"])
def test_wrong_seconds_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("JOURNAL_STALL_S", value)
    with pytest.raises(BadEnvironment, match="JOURNAL_STALL_S"):
        environment.seconds("JOURNAL_STALL_S", 5.0)


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("Yes", True), ("off", False), ("0", False)])
def test_boolean_forms(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    monkeypatch.setenv("DEMO", value)
    assert environment.boolean("DEMO", not expected) is expected


def test_boolean_refuses_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEMO", "maybe")
    with pytest.raises(BadEnvironment, match="DEMO"):
        environment.boolean("DEMO", False)


def test_text_must_be_one_of_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_ENTRIES", "everybody")
    with pytest.raises(BadEnvironment, match="public, auditors"):
        environment.text("LOG_ENTRIES", "auditors", choices=("public", "auditors"))


def test_missing_text_without_default_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    with pytest.raises(BadEnvironment, match="SECRET_KEY must be set"):
        environment.text("SECRET_KEY")


def test_wrong_url_is_refused_without_showing_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:hidden@db/x")
    with pytest.raises(BadEnvironment, match="DATABASE_URL must start with postgresql://") as refused:
        environment.url("DATABASE_URL", schemes=("postgresql",))
    assert "hidden" not in str(refused.value)


def test_relative_path_is_taken_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAR_DIR", "elsewhere")
    assert environment.path("VAR_DIR", Path("/unused")) == environment.ROOT / "elsewhere"


def test_kept_secret_is_made_once_and_private(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "secret.key"
    first = files.kept_secret(file)
    assert files.kept_secret(file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_processes_that_start_at_once_agree_on_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "secret.key"
    with ThreadPool(8) as pool:
        assert len(set(pool.map(lambda _: files.kept_secret(file), range(32)))) == 1
    assert [left.name for left in file.parent.iterdir()] == ["secret.key"]


def test_env_file_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "demo.env"
    files.write_env_file(file, {"DAYBOOK_URL": "http://127.0.0.1:8000", "DAYBOOK_API_KEY": "dbk_a=b"})
    assert files.read_env_file(file) == {"DAYBOOK_URL": "http://127.0.0.1:8000", "DAYBOOK_API_KEY": "dbk_a=b"}
    assert file.stat().st_mode & 0o777 == 0o600
