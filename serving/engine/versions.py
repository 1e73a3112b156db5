"""What lies below a model's base path, and which of it is wanted."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import Code
from .options import All, DesiredModel, Latest, Specific

MAX_VERSION = 2**63 - 1
_VERSION_NAME = re.compile(r"[0-9]{1,30}")


@dataclass(frozen=True, slots=True)
class Scan:
    """A look at a base path: version → directory, and what is wrong, as (code, text) of the model and of single versions."""

    paths: Mapping[int, str] = field(default_factory=dict)
    fault: tuple[Code, str] | None = None
    version_faults: Mapping[int, tuple[Code, str]] = field(default_factory=dict)


def scan(model: DesiredModel) -> Scan:
    """Read a model's base path. Names that aren't an int64 are skipped, as TensorFlow Serving does; `1` beside `01` is a fault."""
    base = model.base_path
    try:
        with os.scandir(base) as found:
            names = sorted(entry.name for entry in found if _VERSION_NAME.fullmatch(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return Scan(fault=(Code.NOT_FOUND, f"Could not find base path {base} for servable {model.name}"))
    except NotADirectoryError:
        return Scan(fault=(Code.NOT_FOUND, f"Base path {base} for servable {model.name} is not a directory"))
    except OSError as error:
        return Scan(fault=(Code.UNAVAILABLE, f"Could not read base path {base} for servable {model.name}: {error.strerror}"))
    by_version: dict[int, list[str]] = {}
    for name in names:
        if int(name) <= MAX_VERSION:
            by_version.setdefault(int(name), []).append(name)
    if not by_version:
        return Scan(
            fault=(
                Code.NOT_FOUND,
                f"No versions of servable {model.name} found under base path {base}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?",
            )
        )
    faults = {
        version: (Code.FAILED_PRECONDITION, f"Version {version} of {model.name} has several directories: {', '.join(clashing)}")
        for version, clashing in by_version.items()
        if len(clashing) > 1
    }
    if isinstance(model.policy, Specific):
        for version in model.policy.versions:
            if version not in by_version:
                faults[version] = (Code.NOT_FOUND, f"Version {version} of servable {model.name} was requested but not found under {base}")
    paths = {version: os.path.join(base, names[0]) for version, names in by_version.items() if len(names) == 1}
    return Scan(paths, None, faults)


def choose(model: DesiredModel, found: Scan) -> list[int]:
    """The versions that the policy wants, of those found and faultless or clashing, descending."""
    present = sorted({*found.paths, *found.version_faults}, reverse=True)
    match model.policy:
        case Latest(num_versions):
            return present[:num_versions]
        case All():
            return present
        case Specific(versions):
            return [version for version in present if version in versions]


def fingerprint(path: str) -> tuple[object, ...]:
    """Changes when any file of a version directory is replaced, completed, added or removed; reads no file.

    Size, date and inode of each, in a fixed order. What can't be looked at is left out.
    """
    marks: list[object] = []
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = os.path.join(directory, name)
            try:
                status = os.stat(file)
            except OSError:
                continue
            marks.append((os.path.relpath(file, path), status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(marks)
