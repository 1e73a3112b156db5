"""What people rely on is written down: settings, commands, answers. A test fails when the page and the code drift apart."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from audit.record import Outcome
from config import environment
from serving.gateway import errors

ROOT = Path(__file__).resolve().parent.parent
OPERATOR = (ROOT / "docs" / "operator.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md")] + sorted((ROOT / "docs").glob("*.md"))

READERS = {name for name in vars(environment) if not name.startswith("_") and callable(getattr(environment, name))}
NOT_SETTINGS = {"DJANGO_SETTINGS_MODULE", "PYTHONPATH", "PYTEST_XDIST_WORKER", "HOME", "TF_CPP_MIN_LOG_LEVEL"}


def variables() -> Iterator[str]:
    """Names of all variables that `config/` reads, found where a reader is called with a literal."""
    for path in (ROOT / "config").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                literal = node.args[0].value
                if (
                    name in READERS | {"get", "setdefault"}
                    and isinstance(literal, str)
                    and re.fullmatch(r"(?!DAYBOOK_)[A-Z][A-Z0-9_]+", literal)
                ):
                    yield literal


def documented_settings() -> set[str]:
    section = OPERATOR.split("\n## Settings\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([A-Z0-9_]+)` \|", section, re.MULTILINE))


def test_every_setting_is_described_for_operators() -> None:
    assert set(variables()) - NOT_SETTINGS - documented_settings() == set()


def test_every_described_setting_is_read() -> None:
    assert documented_settings() - set(variables()) - NOT_SETTINGS == set()


def test_every_command_is_described() -> None:
    commands = {path.stem for path in ROOT.glob("*/management/commands/[a-z]*.py")}
    assert {name for name in commands if not re.search(rf"`{name}\b", OPERATOR)} == set()


def test_every_status_that_the_gateway_answers_is_described() -> None:
    section = OPERATOR.split("\n## What callers are answered\n")[1].split("\n## ")[0]
    described = {int(status) for row in re.findall(r"^\| ([0-9, ]+) \|", section, re.MULTILINE) for status in row.split(",")}
    answered = {*errors._BY_CLASS.values(), *errors._BY_CODE.values()} - {200}
    assert answered - described == set()


def test_every_outcome_is_described() -> None:
    assert {word for word in get_args(Outcome) if f"`{word}`" not in OPERATOR} == set()


@pytest.mark.parametrize("target", ["run", "test", "lint", "bench", "clean", "requirements"])
def test_makefile_says_what_its_targets_do(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(rf"^# make {target}\b", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
