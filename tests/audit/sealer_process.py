"""Sealers as processes of their own, to be killed: `python -m tests.audit.sealer_process CONNINFO DIRECTORY`.

Each line on standard input starts one, whose pid is answered: forked from here, because importing takes longer than sealing.
"""

import os
import sys
from pathlib import Path

import psycopg

from audit.outside import OutsideLog
from audit.sealer import Sealer, SealerOptions
from tests.audit.calls import ORIGIN
from tests.audit.logs import SIGNER


def main(conninfo: str, directory: str) -> None:
    while sys.stdin.readline():
        if not (pid := os.fork()):
            options = SealerOptions(origin=ORIGIN, batch_size=64, checkpoint_interval_s=0.02, poll_s=0.005, retry_s=0.02)
            Sealer(lambda: psycopg.connect(conninfo, autocommit=True), OutsideLog(Path(directory)), [SIGNER], options).run()
            os._exit(0)
        print(pid, flush=True)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
