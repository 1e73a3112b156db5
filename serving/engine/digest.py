"""The digest that names an artifact, and its computation in a process of its own.

Imports nothing of ours: it's run as a script too.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

LARGE_BYTES = 32 << 20  # from here on a process is worth its start (30 ms)
NICENESS = 10
TIMEOUT = 3600.0
_CHUNK = 1 << 20


def digest_files(path: str) -> tuple[str, int]:
    """The artifact's digest (64 hex) and size in bytes.

    SHA-256 over all files, sorted by their path relative to `path` (with `/`, as file system bytes); of each: path, NUL, size in
    decimal, NUL, content. Two copies of a model have one digest whatever their dates and places. Raises OSError, also when a file
    shrinks while it's read.
    """
    root = Path(path)
    digest = hashlib.sha256()
    total = 0
    for relative, file in sorted((os.fsencode(file.relative_to(root).as_posix()), file) for file in root.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest.update(b"%s\0%d\0" % (relative, size))
            left = size
            while left and (chunk := stream.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            if left:
                raise OSError(f"{file} shrank while it was read")
        total += size
    return digest.hexdigest(), total


def digest_apart(path: str) -> tuple[str, int]:
    """The same; a large artifact in a process of low priority.

    It takes a second for each GB, which a thread would take from those that answer. A thread of low priority is no way out, since
    it would wait for the GIL (see `tensorflow_c.start_pools`). Raises OSError.
    """
    size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    if size < LARGE_BYTES:
        return digest_files(path)
    command = [sys.executable, "-I", "-S", __file__, path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if result.returncode:
        raise OSError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else f"digest ended with {result.returncode}")
    digest, total = result.stdout.split()
    return digest, int(total)


if __name__ == "__main__":
    os.nice(NICENESS)
    print(*digest_files(sys.argv[1]))
