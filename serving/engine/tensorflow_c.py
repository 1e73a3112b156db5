"""TensorFlow's C API through ctypes: the one module that knows the library.

Why not the Python package: a run costs a sixth of the overhead, loading and running happen without the GIL, and nothing of a
hundred thousand Python objects has to be imported or collected. The libraries are those of the pip wheel. Two rules of theirs:
they are opened with RTLD_LOCAL (with RTLD_GLOBAL a later `import numpy.random` crashes on clashing symbols), and the Python
package is never imported in the same process afterwards.

Short calls go through `PyDLL`, which keeps the GIL: letting it go and taking it back costs more than they do, and with two callers
invites the other thread in between. Runs and loads go through `CDLL`, which lets it go.
Source: tensorflow/c/c_api.h, tf_tensor.h, tf_tstring.h at v2.21.0.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, Structure, c_char_p, c_int, c_int64, c_size_t, c_void_p
from enum import IntEnum
from pathlib import Path

from serving.protocol.protos.config_pb2 import ConfigProto, RunOptions

from .errors import Code, EngineError, RunFailed, Unavailable

Deallocator = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)


class TfOutput(Structure):
    """TF_Output: one output of one operation."""

    _fields_ = (("oper", c_void_p), ("index", c_int))


class TfBuffer(Structure):
    """TF_Buffer: bytes with an owner."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


_FUNCTIONS: dict[str, tuple[object, list[object]]] = {  # those that keep the GIL: name → (result, arguments)
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBufferFromString": (c_void_p, [c_char_p, c_size_t]),
    "TF_DeleteBuffer": (None, [c_void_p]),
    "TF_NewTensor": (c_void_p, [c_int, c_void_p, c_int, c_void_p, c_size_t, c_void_p, c_void_p]),
    "TF_AllocateTensor": (c_void_p, [c_int, c_void_p, c_int, c_size_t]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_TensorDefaultAlignment": (c_size_t, []),
    "TF_StringInit": (None, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    "TF_StringDealloc": (None, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_OperationOutputType": (c_int, [TfOutput]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SessionListDevices": (c_void_p, [c_void_p, c_void_p]),
    "TF_DeviceListCount": (c_int, [c_void_p]),
    "TF_DeviceListName": (c_char_p, [c_void_p, c_int, c_void_p]),
    "TF_DeviceListType": (c_char_p, [c_void_p, c_int, c_void_p]),
    "TF_DeleteDeviceList": (None, [c_void_p]),
}
_BLOCKING: dict[str, tuple[object, list[object]]] = {  # those that let the GIL go
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, POINTER(c_char_p), c_int, c_void_p, c_void_p, c_void_p],
    ),
    "TF_SessionRun": (
        None,
        [c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_void_p, c_int, c_void_p, c_int, c_void_p, c_void_p],
    ),
    "TF_NewSession": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_LoadLibrary": (c_void_p, [c_char_p, c_void_p]),
}


class Functions:
    """The C functions with their types declared, as attributes by their names."""

    def __init__(self, directory: Path) -> None:
        names = ("libtensorflow_framework.2.dylib", "libtensorflow_cc.2.dylib")
        if sys.platform != "darwin":
            names = ("libtensorflow_framework.so.2", "libtensorflow_cc.so.2")
        try:
            paths = [str(directory / name) for name in names]
            self._libraries = [ctypes.CDLL(path, mode=ctypes.RTLD_LOCAL) for path in paths]
            quick = ctypes.PyDLL(paths[1], mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise Unavailable(f"TensorFlow's libraries can't be opened: {error}") from error
        for library, functions in ((quick, _FUNCTIONS), (self._libraries[1], _BLOCKING)):
            for name, (result, arguments) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)

    def __getattr__(self, name: str) -> "ctypes._FuncPointer":  # for the type checker: all are set above
        raise AttributeError(name)


class Status:
    """A TF_Status with an owner. Not for several threads at once."""

    __slots__ = ("_functions", "pointer")

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.pointer: int = functions.TF_NewStatus()

    def __del__(self) -> None:
        self._functions.TF_DeleteStatus(self.pointer)

    def check(self) -> None:
        """Raise RunFailed with TensorFlow's code and text unless it is OK."""
        code = self._functions.TF_GetCode(self.pointer)
        if code:
            text = self._functions.TF_Message(self.pointer).decode("utf-8", "replace")
            raise RunFailed(text, Code(code) if code in Code._value2member_map_ else Code.UNKNOWN)


def find_directory() -> Path:
    """Where the installed wheel keeps its libraries. Doesn't import the package, which may be blocked. Raises Unavailable."""
    for entry in sys.path:
        directory = Path(entry or ".") / "tensorflow"
        if any(directory.glob("libtensorflow_cc.*")):
            return directory.resolve()
    raise Unavailable("TensorFlow isn't installed: no tensorflow/libtensorflow_cc.* on sys.path")


_lock = threading.Lock()
_functions: Functions | None = None


def get_functions() -> Functions:
    """The C API, opened at the first call. Raises Unavailable."""
    global _functions
    with _lock:
        if _functions is None:
            _functions = Functions(find_directory())
        return _functions


def load_op_library(path: str) -> None:
    """Make the ops of a shared library known, for models loaded afterwards. It stays loaded. Raises EngineError."""
    functions = get_functions()
    status = Status(functions)
    functions.TF_LoadLibrary(path.encode(), status.pointer)
    try:
        status.check()
    except RunFailed as error:
        raise EngineError(f"op library {path} can't be loaded: {error.message}", error.code) from error


class Pool(IntEnum):
    """Where the ops of a run are run.

    CALLER: on the calling thread, 14 µs for a small graph instead of 36; a loop that never ends isn't broken off at the timeout.
    SERVE: in threads that all sessions share. LOAD: in others, of low priority, for restoring variables and for probing.
    """

    CALLER = -1
    SERVE = 0
    LOAD = 1


LOAD_NICENESS = 15  # well below the worker's own 5 (config/up.py): a load takes a tenth of what a run beside it takes
NUM_SERVE_THREADS = 2
NUM_LOAD_THREADS = 2


def session_config(*, num_gpus: int | None = None) -> bytes:
    """A serialized ConfigProto for serving: one thread per op, the pools of `Pool` for the ops of all sessions.

    Two callers with one-thread ops use two cores best: splitting one small product over threads costs more in wake-ups than it
    saves. GPU memory grows as needed instead of being grabbed.
    """
    config = ConfigProto(intra_op_parallelism_threads=1, allow_soft_placement=True)
    config.session_inter_op_thread_pool.add(num_threads=NUM_SERVE_THREADS, global_name="serve")
    config.session_inter_op_thread_pool.add(num_threads=NUM_LOAD_THREADS, global_name="load")
    config.gpu_options.allow_growth = True
    if num_gpus is not None:
        config.device_count["GPU"] = num_gpus
    return config.SerializeToString()


def start_pools(config: bytes) -> None:
    """Make TensorFlow start its shared threads, those of LOAD at low priority.

    Niceness belongs to a thread and is inherited by those that it starts; without privileges it can only grow. Hence the two
    steps: the first session starts the pools that it names, on behalf of the thread that makes it. A Python thread must not be
    nice itself: once it has asked for the GIL, whoever lets it go waits until it was really taken (CPython's forced switching),
    and a thread of low priority may be a long time coming.
    """
    whole = ConfigProto.FromString(config)
    first = ConfigProto.FromString(config)
    del first.session_inter_op_thread_pool[Pool.LOAD :]
    _make_session(first.SerializeToString())

    def start() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOAD_NICENESS)
        _make_session(whole.SerializeToString())

    with ThreadPoolExecutor(1) as executor:
        executor.submit(start).result()


def _make_session(config: bytes) -> None:
    functions = get_functions()
    status = Status(functions)
    options, graph = functions.TF_NewSessionOptions(), functions.TF_NewGraph()
    try:
        functions.TF_SetConfig(options, config, len(config), status.pointer)
        status.check()
        session = functions.TF_NewSession(graph, options, status.pointer)
        status.check()
        functions.TF_CloseSession(session, status.pointer)
        functions.TF_DeleteSession(session, status.pointer)
    finally:
        functions.TF_DeleteGraph(graph)
        functions.TF_DeleteSessionOptions(options)


class Session:
    """A loaded graph that can be run. `run` may be called by several threads at once; `close` by one, after the last run."""

    __slots__ = ("_functions", "_graph", "_options", "pointer")

    def __init__(self, path: str, tags: Iterable[str], config: bytes) -> None:
        """Load a SavedModel: blocking, without the GIL; variables are restored in the LOAD pool.

        Raises RunFailed with TensorFlow's code and text.
        """
        functions = self._functions = get_functions()
        status = Status(functions)
        options = functions.TF_NewSessionOptions()
        self._graph: int = functions.TF_NewGraph()
        self._options: dict[tuple[int, Pool], int] = {}  # run options by timeout and pool, TF_Buffer*
        try:
            functions.TF_SetConfig(options, config, len(config), status.pointer)
            status.check()
            encoded = [tag.encode() for tag in tags]
            self.pointer: int = functions.TF_LoadSessionFromSavedModel(
                options,
                self.run_options(0, Pool.LOAD),
                path.encode(),
                (c_char_p * len(encoded))(*encoded),
                len(encoded),
                self._graph,
                None,
                status.pointer,
            )
            status.check()
        except BaseException:
            functions.TF_DeleteGraph(self._graph)
            self._delete_options()
            raise
        finally:
            functions.TF_DeleteSessionOptions(options)

    def find_output(self, tensor: str) -> tuple[TfOutput, int] | None:
        """A graph tensor ("node:0") and its dtype's number; None when the graph has no such tensor."""
        name, _, index = tensor.partition(":")
        operation = self._functions.TF_GraphOperationByName(self._graph, name.encode())
        number = int(index or 0)
        if not operation or number >= self._functions.TF_OperationNumOutputs(operation):
            return None
        output = TfOutput(operation, number)
        return output, self._functions.TF_OperationOutputType(output)

    def run_options(self, timeout_ms: int, pool: Pool) -> int:
        """A TF_Buffer* with RunOptions, kept until `close`. The timeout is rounded up by 3 % at most, so that few are made."""
        if timeout_ms > 64:
            step = 1 << (timeout_ms.bit_length() - 6)
            timeout_ms = -(-timeout_ms // step) * step
        buffer = self._options.get((timeout_ms, pool))
        if buffer is None:
            encoded = RunOptions(timeout_in_ms=timeout_ms, inter_op_thread_pool=pool).SerializeToString()
            buffer = self._options.setdefault((timeout_ms, pool), self._functions.TF_NewBufferFromString(encoded, len(encoded)))
        return buffer

    def devices(self) -> list[tuple[str, str]]:
        """(name, type) of each device that the session may use."""
        functions, status = self._functions, Status(self._functions)
        devices = functions.TF_SessionListDevices(self.pointer, status.pointer)
        status.check()
        try:
            return [
                (
                    functions.TF_DeviceListName(devices, place, status.pointer).decode(),
                    functions.TF_DeviceListType(devices, place, status.pointer).decode(),
                )
                for place in range(functions.TF_DeviceListCount(devices))
            ]
        finally:
            functions.TF_DeleteDeviceList(devices)

    def close(self) -> None:
        """Give everything back to the allocator."""
        functions, status = self._functions, Status(self._functions)
        functions.TF_CloseSession(self.pointer, status.pointer)
        functions.TF_DeleteSession(self.pointer, status.pointer)
        functions.TF_DeleteGraph(self._graph)
        self._delete_options()
        status.check()

    def _delete_options(self) -> None:
        for buffer in self._options.values():
            self._functions.TF_DeleteBuffer(buffer)
        self._options.clear()
