"""What the engine can run: the seam between runtimes (TensorFlow, Python, pipelines) and everything above them.

A servable is one loaded (model, version). It sees whole NumPy arrays and knows nothing of batches, queues or callers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

Arrays = Mapping[str, np.ndarray]
DEFAULT_SIGNATURE = "serving_default"


class ServableKey(NamedTuple):
    """Names one loaded version everywhere in the engine."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"Specific({self.name}, {self.version})"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One end of a signature. `shape` is None for unknown rank; -1 marks an unknown dimension."""

    name: str  # the graph's tensor name, "x:0"
    dtype: str  # TensorFlow's enum name, "DT_FLOAT"
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a servable. `defaults` fills inputs that a caller may leave out."""

    method_name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    defaults: Arrays = field(default_factory=dict)


class Servable(Protocol):
    """One loaded version.

    `run` may be called by several threads at once, also while another run of the same servable is under way; `unload` is called
    once, after the last `run` has returned.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def artifact(self) -> str:
        """SHA-256 over the version's files, 64 hex: what a record names and replay asks for."""
        ...

    @property
    def device(self) -> str: ...

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    @property
    def unbatchable(self) -> Mapping[str, str]:
        """Signatures known from reading the model to change or draw something at each run, with the reason; never probed."""
        ...

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> dict[str, np.ndarray]:
        """Run one signature once.

        inputs: by the signature's input names; strings are `object` arrays of `bytes`. Held, not changed, until it returns.
        output_filter: output names to compute, empty = all. Outputs may be read-only and share the runtime's memory.
        Raises UnknownSignature, InvalidInput (names, dtypes) before running, RunFailed with the runtime's code and text.
        """
        ...

    def unload(self) -> None:
        """Give everything back. No `run` is under way and none will follow."""
        ...


@runtime_checkable
class BackgroundRunner(Protocol):
    """A servable that can also run without taking the device from those who wait for answers."""

    def run_in_background(self, signature: str, inputs: Arrays, *, timeout_ms: int) -> dict[str, np.ndarray]:
        """As `Servable.run`, at low priority; for probing and warming up."""
        ...
