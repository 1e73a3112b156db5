"""SavedModels as servables: signatures planned once at load, then run with nothing left to look up."""

import os
from collections.abc import Iterable, Mapping, Sequence
from ctypes import c_void_p
from threading import Lock

import numpy as np

from .digest import digest_apart
from .dtypes import NAMES, NUMBERS, numpy_dtype
from .errors import Code, InvalidInput, InvalidModel, RunFailed, UnknownSignature
from .registry import LoadRequest
from .savedmodel import ModelFiles, read_savedmodel
from .servable import Arrays, Servable, Signature
from .tensorflow_c import Functions, Pool, Session, Status, TfOutput, get_functions, load_op_library, session_config, start_pools
from .tensorflow_tensor import check_strings, new_tensor, take_tensor

MEMORY_PER_BYTE = 1.2  # of the files on disk; TensorFlow Serving's estimate
FIXED_MEMORY = 64 << 20  # session, graph and first runs of a small model
MAX_PLANS = 256  # per servable: output filters come from callers


class _Frame:
    """The C arrays of one run, reused: made once per concurrent caller."""

    __slots__ = ("fed", "fetched", "status")

    def __init__(self, functions: Functions, num_inputs: int, num_outputs: int) -> None:
        self.fed = (c_void_p * num_inputs)()
        self.fetched = (c_void_p * num_outputs)()
        self.status = Status(functions)


class _Plan:
    """One signature with one output filter, ready to run."""

    __slots__ = ("defaults", "feeds", "fetches", "frames", "inputs", "num_inputs", "num_outputs", "outputs", "pool")

    def __init__(self, session: Session, signature: Signature, aliases: Iterable[str], pool: Pool) -> None:
        self.pool = pool
        self.inputs = [(alias, NUMBERS[spec.dtype], numpy_dtype(spec.dtype)) for alias, spec in signature.inputs.items()]
        self.outputs = [(alias, NUMBERS[signature.outputs[alias].dtype], numpy_dtype(signature.outputs[alias].dtype)) for alias in aliases]
        self.defaults = signature.defaults
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)
        self.feeds = (TfOutput * self.num_inputs)(*[_find(session, signature.inputs[alias].name) for alias, _, _ in self.inputs])
        self.fetches = (TfOutput * self.num_outputs)(*[_find(session, signature.outputs[alias].name) for alias, _, _ in self.outputs])
        self.frames: list[_Frame] = []  # those not in use; list.pop and append are atomic


def _find(session: Session, tensor: str) -> TfOutput:
    found = session.find_output(tensor)
    if found is None:
        raise InvalidModel(f"the graph has no tensor {tensor}")
    return found[0]


class TensorflowServable:
    """A SavedModel in a session of its own. See `Servable` for the contract."""

    unbatchable: Mapping[str, str]

    def __init__(self, request: LoadRequest, files: ModelFiles, session: Session, artifact: str) -> None:
        self.name = request.name
        self.version = request.version
        self.artifact = artifact
        self.signatures = files.signatures
        self.unbatchable = {name: facts.side_effect for name, facts in files.facts.items() if facts.side_effect}
        self._facts = files.facts
        self._session = session
        self._functions = get_functions()
        self._lock = Lock()  # guards changes of _plans
        self._plans: dict[tuple[str, tuple[str, ...]], _Plan] = {}
        kinds = [kind for _, kind in session.devices()]
        self.device = "GPU" if "GPU" in kinds else "CPU"
        for name, signature in self.signatures.items():
            self._check_types(name, signature)
            self._plan(name, ())

    def run(self, signature: str, inputs: Arrays, *, output_filter: Sequence[str] = (), timeout_ms: int) -> dict[str, np.ndarray]:
        """Run one signature once. See `Servable.run`."""
        return self._run(signature, inputs, output_filter, timeout_ms, None)

    def run_in_background(self, signature: str, inputs: Arrays, *, timeout_ms: int) -> dict[str, np.ndarray]:
        """The same at low priority. See `BackgroundRunner`."""
        return self._run(signature, inputs, (), timeout_ms, Pool.LOAD)

    def _run(
        self, signature: str, inputs: Arrays, output_filter: Sequence[str], timeout_ms: int, pool: Pool | None
    ) -> dict[str, np.ndarray]:
        key = (signature, tuple(output_filter))
        plan = self._plans.get(key) or self._plan(*key)
        functions, session = self._functions, self._session
        try:
            frame = plan.frames.pop()
        except IndexError:
            frame = _Frame(functions, plan.num_inputs, plan.num_outputs)
        fed, fetched = frame.fed, frame.fetched
        num_fed = 0
        try:
            for alias, number, dtype in plan.inputs:
                array = inputs.get(alias)
                if array is None:
                    array = plan.defaults.get(alias)
                if array is None or array.dtype != dtype:
                    raise self._bad_input(signature, alias, array)
                fed[num_fed] = new_tensor(functions, array, number)
                num_fed += 1
            if len(inputs) != num_fed and (extra := inputs.keys() - self.signatures[signature].inputs.keys()):
                raise InvalidInput(f"signature {signature} has no input {', '.join(sorted(extra))}")
            options = session.run_options(timeout_ms, plan.pool if pool is None else pool)
            functions.TF_SessionRun(
                session.pointer, options, plan.feeds, fed, num_fed, plan.fetches, fetched, plan.num_outputs,
                None, 0, None, frame.status.pointer,
            )  # fmt: skip
            if functions.TF_GetCode(frame.status.pointer):
                frame.status.check()
            return {
                alias: take_tensor(functions, fetched[place], dtype, number) for place, (alias, number, dtype) in enumerate(plan.outputs)
            }
        finally:
            for place in range(num_fed):
                functions.TF_DeleteTensor(fed[place])
            plan.frames.append(frame)

    def unload(self) -> None:
        """Close the session and free the graph. See `Servable.unload`."""
        self._plans.clear()
        self._session.close()

    def _plan(self, name: str, output_filter: tuple[str, ...]) -> _Plan:
        signature = self.signatures.get(name)
        if signature is None:
            raise UnknownSignature(f'Serving signature key "{name}" not found.')
        for alias in output_filter:
            if alias not in signature.outputs:
                known = ",".join(sorted(signature.outputs))
                raise InvalidInput(f"output tensor alias not found in signature: {alias} Outputs expected to be in the set {{{known}}}.")
            if output_filter.count(alias) > 1:
                raise InvalidInput(f"duplicate output tensor alias: {alias}")
        pool = Pool.SERVE if self._facts[name].loops else Pool.CALLER
        plan = _Plan(self._session, signature, output_filter or signature.outputs, pool)
        with self._lock:
            if len(self._plans) >= MAX_PLANS:
                for key in [key for key in self._plans if key[1]]:
                    del self._plans[key]
            return self._plans.setdefault((name, output_filter), plan)

    def _check_types(self, name: str, signature: Signature) -> None:
        """The graph's own types rule: a signature that names others would have us read memory wrongly."""
        for alias, spec in (*signature.inputs.items(), *signature.outputs.items()):
            found = self._session.find_output(spec.name)
            if found is None:
                raise InvalidModel(f"{alias} of signature {name} names the tensor {spec.name}, which the graph doesn't have")
            actual = found[1] % 100  # reference types are 100 more
            if actual != NUMBERS[spec.dtype]:
                raise InvalidModel(f"{alias} of signature {name} says {spec.dtype}, its tensor is of type {NAMES.get(actual, actual)}")

    def _bad_input(self, signature: str, alias: str, array: np.ndarray | None) -> InvalidInput:
        if array is None:
            return InvalidInput(f"signature {signature} needs the input {alias}")
        expected = self.signatures[signature].inputs[alias].dtype
        return InvalidInput(f"input {alias} of signature {signature} is of type {expected}, got {array.dtype}")


class TensorflowLoader:
    """Loads SavedModels.

    Making one opens the libraries, loads the op libraries and starts TensorFlow's shared threads. Raises EngineError.
    """

    def __init__(self, op_libraries: Sequence[str] = (), config: bytes | None = None) -> None:
        self._config = session_config() if config is None else config
        check_strings(get_functions())
        start_pools(self._config)
        for path in op_libraries:
            load_op_library(path)

    def estimate_bytes(self, request: LoadRequest) -> int:
        """See `Loader.estimate_bytes`."""
        if not os.path.isdir(request.path):
            raise InvalidModel(f"{request.path} is not there", Code.NOT_FOUND)
        size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(request.path) for name in names)
        return int(size * MEMORY_PER_BYTE) + FIXED_MEMORY

    def load(self, request: LoadRequest) -> Servable:
        """See `Loader.load`."""
        files = read_savedmodel(request.path, request.tags)
        artifact, _ = digest_apart(request.path)
        try:
            session = Session(request.path, files.tags, self._config)
        except RunFailed as error:
            raise InvalidModel(f"TensorFlow can't load {request.path}: {error.message}", error.code) from error
        try:
            return TensorflowServable(request, files, session, artifact)
        except BaseException:
            session.close()
            raise
