"""What people rely on is written down: settings, commands, answers. A test fails when the page and the code drift apart."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from audit.record import Outcome
from config import environment
from serving.gateway import app, errors, routing

ROOT = Path(__file__).resolve().parent.parent
OPERATOR = (ROOT / "docs" / "operator.md").read_text()
ADDRESSES = (ROOT / "docs" / "api.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "demo/README.md", "deploy/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

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


def site_addresses(patterns: list[URLPattern | URLResolver], prefix: str = "/") -> Iterator[str]:
    for pattern in patterns:
        address = prefix + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield re.sub(r"\(\?P<(\w+)>[^)]*\)", r"<\1>", re.sub(r"<\w+:(\w+)>", r"<\1>", address)).replace("^", "").removesuffix("\\Z")
        elif not address.startswith(("/accounts/", "/api/")):  # allauth's own, and what the API's description lists
            yield from site_addresses(pattern.url_patterns, address)


def test_every_address_of_the_site_is_listed() -> None:
    assert {address for address in site_addresses(get_resolver().url_patterns) if f"`{address}`" not in ADDRESSES} == set()


def test_every_route_of_the_gateway_is_listed_and_every_listed_one_is_there() -> None:
    section = ADDRESSES.split("\n## The gateway\n")[1].split("\n## ")[0]
    listed = re.findall(r"`(GET|POST) (/[^`]*)`", section)
    assert app._OPEN - {path for method, path in listed if method == "GET"} == set()
    verbs = {routing.parse_route(method, _named(path), {}).verb for method, path in listed if path.startswith("/v1")}
    assert verbs == set(get_args(routing.Verb))
    assert {path for _, path in listed if not path.startswith("/v1")} == app._OPEN


def _named(path: str) -> str:
    return path.replace("<version>", "1").replace("<model>", "m").replace("<label>", "stable")


def test_every_figure_for_prometheus_is_described() -> None:
    section = OPERATOR.split("\n### Figures for Prometheus\n")[1].split("\n## ")[0]
    described = set(re.findall(r"^\| (`daybook_.*?) \|", section, re.MULTILINE))
    names = {name for row in described for name in re.findall(r"`(daybook_\w+)`", row)}
    sources = [ROOT / "config/metrics.py", ROOT / "serving/gateway/metrics.py", ROOT / "serving/gateway/app.py"]
    made = {name for source in sources for name in re.findall(r'"(daybook_\w+)"', source.read_text())}
    made |= {f"daybook_{name}" for name in ("queue_seconds", "model_seconds", "commit_seconds", "rows")}  # made of their parts
    assert names == made


@pytest.mark.parametrize("target", ["run", "test", "lint", "bench", "clean", "requirements"])
def test_makefile_says_what_its_targets_do(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert re.search(rf"^# make {target}\b", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
