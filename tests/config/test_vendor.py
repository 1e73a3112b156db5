"""What is vendored is what its README says."""

import hashlib
import re
from pathlib import Path


def test_vendored_files_are_the_ones_described() -> None:
    vendor = Path(__file__).resolve().parents[2] / "config" / "static" / "vendor"
    described = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (vendor / "README.md").read_text(), re.MULTILINE))
    there = {str(path.relative_to(vendor)) for path in vendor.rglob("*") if path.suffix in (".js", ".woff2", ".css")}
    assert there == set(described)
    for name, digest in described.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name
