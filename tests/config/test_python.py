"""With a Python that it doesn't run on, Daybook says so in a sentence, before anything is made."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

OTHER = "import sys; sys.version_info = ({0}, {1}, 0, 'final', 0); sys.version = '{0}.{1}.0 (other)'; "


def make_python(directory: Path, major: int, minor: int) -> Path:
    """A Python that takes itself for another version; it knows `-c` only."""
    path = directory / "python-other"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{OTHER.format(major, minor)}exec(sys.argv[1])" "$2"\n')
    path.chmod(0o755)
    return path


def make(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", "-s", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("major", "minor"), [(3, 10), (3, 14), (2, 7)])
def test_make_names_the_python_that_will_not_do(major: int, minor: int, tmp_path: Path) -> None:
    python = make_python(tmp_path, major, minor)
    answer = make("python", f"PYTHON={python}")
    assert answer.returncode != 0
    assert f"Daybook needs CPython 3.11, 3.12 or 3.13; {python} is {major}.{minor}.0" in answer.stderr


def test_make_says_what_to_install_where_no_python_will_do() -> None:
    answer = make("python", "PYTHON=")
    assert answer.returncode != 0
    assert "Daybook needs CPython 3.11, 3.12 or 3.13; found:" in answer.stdout
    assert "make run PYTHON=/path/to/python3.12" in answer.stdout


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_make_takes_each_python_that_will_do(minor: int, tmp_path: Path) -> None:
    assert make("python", f"PYTHON={make_python(tmp_path, 3, minor)}").returncode == 0


@pytest.mark.parametrize(("major", "minor"), [(3, 10), (3, 14)])
def test_manage_refuses_another_python(major: int, minor: int) -> None:
    code = OTHER.format(major, minor) + "import runpy; sys.argv = ['manage.py', 'help']; runpy.run_path('manage.py', run_name='__main__')"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert answer.stderr.strip() == f"Daybook runs on CPython 3.11 to 3.13; this is {major}.{minor}.0 at {sys.executable}."
