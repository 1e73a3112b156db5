"""The gateway on a journal disk that fails as a file says: `FAULT_FILE` holds `EIO`, `ENOSPC`, `stall`, or doesn't exist."""

import errno
import os
import time
from pathlib import Path

from audit.recorder import Recorder, RecorderOptions
from config.gateway import main
from tests.audit.disks import FaultyDisk

FAULT = Path(os.environ["FAULT_FILE"])


def fail_as_told() -> None:
    word = FAULT.read_text() if FAULT.exists() else ""
    if word == "stall":
        while FAULT.exists():
            time.sleep(0.01)
    elif word:
        raise OSError(getattr(errno, word), "injected")


def make_recorder(options: RecorderOptions) -> Recorder:
    disk = FaultyDisk(options.directory)
    disk.on_sync = disk.on_create = fail_as_told
    return Recorder(options, directory=disk)


main(make_recorder)
