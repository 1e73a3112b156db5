"""The gateway without the daybook, for measuring what the daybook costs: `python -m bench.unrecorded`.

Everything else is the same: keys, limits, codec, queue. It lives in the bench so that the product has no such switch.
"""

from audit.receipts import ReceiptSigner
from audit.record import Call
from audit.recorder import Committed, Recorder, RecorderOptions, Waits
from config.gateway import main


class Unrecorded(Recorder):
    """Says at once that a call is recorded, and records nothing. Its answers all carry the same leaf and receipt."""

    def __init__(self, options: RecorderOptions) -> None:
        super().__init__(options)
        self._constant = ReceiptSigner(options.origin, options.merge_delay_s).sign([bytes(32)], 0)

    def put(self, call: Call, future: Waits) -> None:
        future.set_result(Committed(call.record_id, bytes(32), 0, self._constant, 0))


if __name__ == "__main__":
    main(make_recorder=Unrecorded)
