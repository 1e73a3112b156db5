"""Import directions and framework-free parts, read from the source: `audit ← catalog ← serving ← config`.

docs/architecture.md says why. An import inside a function counts like one at the top of a module.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("audit", "catalog", "serving", "config")  # each may import those before it

FRAMEWORKS = {"django", "rest_framework", "drf_spectacular", "allauth", "celery", "kombu", "granian"}
NETWORK = {"redis", "httpx", "psycopg", "socket", "asyncio"}

# Modules that others could run without the rest of us, and what they must never import (besides other packages of ours).
PURE: dict[str, set[str]] = {
    "serving/protocol": FRAMEWORKS | NETWORK | {"tensorflow"},
    "serving/engine": FRAMEWORKS | NETWORK | {"tensorflow"},
    "serving/snapshot.py": FRAMEWORKS | NETWORK | {"tensorflow"},
    "audit/record.py": FRAMEWORKS | NETWORK,
    "audit/journal.py": FRAMEWORKS | NETWORK,
    "audit/payloads.py": FRAMEWORKS | NETWORK,
    "audit/merkle.py": FRAMEWORKS | NETWORK,
    "audit/checkpoint.py": FRAMEWORKS | NETWORK,
    "audit/leaves.py": FRAMEWORKS | NETWORK,
    "audit/receipts.py": FRAMEWORKS | NETWORK,
    "audit/recorder.py": FRAMEWORKS | {"redis", "httpx", "psycopg"},
    "audit/search.py": FRAMEWORKS | NETWORK,
    "audit/verifier.py": FRAMEWORKS | NETWORK | {"audit"},
    "catalog/openapi": FRAMEWORKS | NETWORK,
    "catalog/signatures.py": FRAMEWORKS | NETWORK,
    "config/launch.py": FRAMEWORKS | NETWORK | {"config"},
}  # fmt: skip

# What the gateway and the supervisor share with Django's side of `config`.
FRAMEWORK_FREE_CONFIG = ("environment", "files", "processes", "supervisor", "output", "logs", "gateway")


def modules(package: str) -> list[Path]:
    return sorted(path for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts and not path.stem.endswith("_pb2"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, relative imports made absolute; type-checking imports left out."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    tree = ast.parse(path.read_text(), str(path))
    skipped = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], node.module or "")).rstrip(".") if node.level else node.module or ""
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def top(name: str) -> str:
    return name.split(".", 1)[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    above = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"demo", "bench", "tests"}
    if package == "config":
        above -= {"demo"}  # `seed_demo` is the one that calls it
    faults = [
        f"{path.relative_to(ROOT)}:{line} imports {name}" for path in modules(package) for line, name in imports(path) if top(name) in above
    ]
    assert faults == []


@pytest.mark.parametrize("place", PURE)
def test_pure_parts_import_no_framework(place: str) -> None:
    path = ROOT / place
    assert path.exists(), f"{place} has moved: say so in tests/test_architecture.py"
    files = modules(place) if path.is_dir() else [path]
    faults = [
        f"{file.relative_to(ROOT)}:{line} imports {name}" for file in files for line, name in imports(file) if top(name) in PURE[place]
    ]
    assert faults == []


@pytest.mark.parametrize("place", ["serving/protocol", "serving/engine"])
def test_codecs_and_engine_import_nothing_of_ours_but_the_messages(place: str) -> None:
    own = place.replace("/", ".")
    allowed = (own, "serving.protocol")
    faults = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in modules(place)
        for line, name in imports(file)
        if top(name) in PACKAGES and not name.startswith(allowed)
    ]
    assert faults == []


def test_only_one_module_knows_tensorflow() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in modules(package)
        for line, name in imports(path)
        if top(name) == "tensorflow"
    ]
    assert faults == [], "TensorFlow is reached through its C API in serving/engine/tensorflow_c.py"


def test_only_settings_and_entry_points_read_the_environment() -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("audit", "catalog", "serving")
        for path in modules(package)
        for line in environment_reads(ast.parse(path.read_text()))
    ]
    assert faults == []


def environment_reads(tree: ast.AST) -> Iterator[int]:
    """Lines that use `os.environ` or `os.getenv` for more than giving a library its default."""
    defaults = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "setdefault"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and id(node) not in defaults:
            yield node.lineno


@pytest.mark.parametrize("module", FRAMEWORK_FREE_CONFIG)
def test_what_the_gateway_shares_imports_no_django(module: str) -> None:
    faults = [f"{line}: {name}" for line, name in imports(ROOT / "config" / f"{module}.py") if top(name) in {"django", "celery"}]
    assert faults == []


def loaded(statement: str) -> set[str]:
    """The top-level modules that a fresh process has loaded after a statement."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(shown.split())


def test_gateway_loads_neither_django_nor_tensorflow() -> None:
    assert not loaded("import serving.gateway.app") & {"django", "tensorflow", "celery", "rest_framework"}


def test_verifier_needs_nothing_but_itself() -> None:
    assert not loaded("import audit.verifier") & {"django", "psycopg", "redis", "numpy", "celery"}


def test_no_module_is_a_drawer_of_leftovers() -> None:
    faults = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in modules(package)
        if path.stem in {"utils", "helpers", "misc", "common"}
    ]
    assert faults == []
