"""How much memory a load may take, and giving it back (Linux; elsewhere nothing is known and nothing refused)."""

import ctypes
import sys
from pathlib import Path

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def find_available_bytes() -> int | None:
    """What can still be allocated: the machine's available memory, or less where a control group has a limit."""
    available: int | None = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except OSError:
        return None
    for limit_file, usage_file in _CGROUPS:
        try:
            limit = int(Path(limit_file).read_text())
            left = limit - int(Path(usage_file).read_text()) + _reclaimable(Path(limit_file).parent)
        except (OSError, ValueError):  # no such group, or "max"
            continue
        available = left if available is None else min(available, left)
    return available


def _reclaimable(group: Path) -> int:
    """The page cache that a control group counts as used but gives up when asked."""
    for line in (group / "memory.stat").read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def trim() -> None:
    """Give freed memory back to the system: glibc keeps it otherwise, and an unloaded model would seem to stay."""
    if sys.platform == "linux":
        trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim_heap is not None:
            trim_heap(0)
