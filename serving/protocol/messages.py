"""The values that travel along one request: door → queue → worker → door.

Every protocol decodes into an `InferenceRequest` and encodes from an `InferenceResponse`; what lies between knows neither HTTP
nor gRPC. Arrays are NumPy; strings are `object` arrays of `bytes`.
"""

import msgspec
import numpy as np

# Structs, not dataclasses: frozen ones take five times as long to make, and every call makes one of each.


class InferenceRequest(msgspec.Struct, frozen=True, gc=False):
    """A decoded request for one servable.

    inputs: by the signature's input names. `rows` is dimension 0 where all inputs share it, otherwise 0 (not batchable).
    output_filter: names to return, empty = all.
    """

    model: str
    version: int
    signature: str
    inputs: dict[str, np.ndarray]
    rows: int
    output_filter: tuple[str, ...] = ()


class Timing(msgspec.Struct, frozen=True, gc=False):
    """Where the time went inside the worker, µs, and the batch it went through."""

    queue_us: int = 0  # from the frame's arrival at the worker to the start of the run
    model_us: int = 0
    batch_id: int = 0  # per worker start, 0 = ran alone
    batch_size: int = 0  # rows really run, padding not counted
    batch_index: int = 0  # first row of this request in it
    worker: str = ""
    device: str = ""


class InferenceResponse(msgspec.Struct, frozen=True, gc=False):
    outputs: dict[str, np.ndarray]
    timing: Timing = Timing()
