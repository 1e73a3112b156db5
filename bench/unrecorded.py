"""The gateway without the daybook, for measuring what the daybook costs: `granian --interface rsgi bench.unrecorded:app`.

Everything else is the same: keys, limits, codec, queue. It lives in the bench so that the product has no such switch.
"""

import asyncio

from audit.receipts import ReceiptSigner
from audit.record import Call
from audit.recorder import Committed, Recorder, RecorderOptions
from config.gateway import read_options
from serving.gateway.app import Gateway


class Unrecorded(Recorder):
    """Says at once that a call is recorded, and records nothing. Its answers all carry the same leaf and receipt."""

    def __init__(self, options: RecorderOptions) -> None:
        super().__init__(options)
        self._constant = ReceiptSigner(options.origin, options.merge_delay_s).sign([bytes(32)], 0)

    def append(self, call: Call) -> "asyncio.Future[Committed]":
        future: asyncio.Future[Committed] = self._loop.create_future()
        future.set_result(Committed(call.record_id, bytes(32), 0, self._constant, 0))
        return future


app = Gateway(read_options(), make_recorder=Unrecorded)
