"""Keeps what is loaded in step with what is desired.

`set_desired` says what should be served, `poll` looks at the directories, load threads do the slow part, and `_converge` (always
under the lock, always quick) moves versions through the states of `state.py`. One broken model never stops another: every fault
ends as a code and a text in the status of its own version, or of its model where no version can be named.

A version that is retired takes no new handles and is unloaded when the last handle is released; who must drain first (a stream's
pending entries) holds a handle while it does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .batch import BatchRule
from .crashes import CrashMarks
from .errors import Code, EngineError, InvalidModel, InvalidOptions, NoMemory, Unavailable, UnknownServable
from .lifecycle import MAX_RETRY_DELAY, Handle, ModelStatus, Version, VersionStatus
from .memory import find_available_bytes, trim
from .options import DesiredModel
from .probe import probe_servable
from .registry import Loader, LoadRequest, find_loader
from .servable import Servable, ServableKey
from .state import Event, State
from .versions import Scan, choose, fingerprint, scan

__all__ = ["KEPT_ENDED", "Handle", "Manager"]

logger = logging.getLogger(__name__)

KEPT_ENDED = 3  # END entries kept per model, so that people see what happened last
KEPT_GONE = 100  # models that aren't desired any more of which something is still shown


class Manager:
    """Loads and unloads. Every method may be called from any thread; none waits for a load, except `drain` and `close`.

    on_change: called without the lock, from whichever thread caused it, after any status has changed; must be quick.
    clock: the monotonic clock that `poll`'s `now` is of.
    marks: a directory of this worker's node where loads under way are noted (`crashes.py`); None = not noted.
    """

    def __init__(
        self,
        *,
        num_load_threads: int = 2,
        on_change: Callable[[], None] | None = None,
        loaders: Callable[[str], Loader] = find_loader,
        clock: Callable[[], float] = time.monotonic,
        find_available: Callable[[], int | None] = find_available_bytes,
        marks: Path | None = None,
    ) -> None:
        self._marks = CrashMarks(marks)
        self._on_change = on_change
        self._find_loader = loaders
        self._clock = clock
        self._find_available = find_available
        self._lock = threading.Condition()
        self._models: dict[str, DesiredModel] = {}  # all below: guarded by _lock
        self._scans: dict[str, Scan] = {}
        self._versions: dict[ServableKey, Version] = {}  # live ones
        self._ended: dict[str, list[Version]] = {}  # newest first
        self._reserved: dict[ServableKey, int] = {}  # bytes promised to loads under way
        self._generation = 0
        self._closed = False
        self._loaders: dict[str, Future[Loader]] = {}  # by platform
        self._prepare_pool = ThreadPoolExecutor(1, "prepare")
        self._load_pool = ThreadPoolExecutor(num_load_threads, "load")
        self._unload_pool = ThreadPoolExecutor(1, "unload")

    # What is desired

    def set_desired(self, models: Iterable[DesiredModel]) -> None:
        """Replace the whole set; models left out are unloaded. All or nothing.

        Options that a loaded version can take on (policy, batching, weight, timeout) apply at once without a reload; another path,
        platform or tags load it anew. Raises InvalidOptions.
        """
        desired: dict[str, DesiredModel] = {}
        for model in models:
            if model.name in desired:
                raise InvalidOptions(f"Illegal to list model {model.name} multiple times in config list")
            desired[model.name] = model
        with self._lock:
            if self._closed:
                return
            for model in desired.values():
                if model.platform not in self._loaders or _has_raised(self._loaders[model.platform]):
                    self._loaders[model.platform] = self._prepare_pool.submit(self._find_loader, model.platform)
            self._models = desired
            self._scans = {name: found for name, found in self._scans.items() if name in desired}
        self.poll(self._clock())

    def poll(self, now: float | None = None) -> None:
        """Look at all base paths, start what is due, retire what isn't wanted. Call about every second."""
        with self._lock:
            models = list(self._models.values())
        scans = {model.name: scan(model) for model in models}  # may wait for a slow disk: not under the lock
        with self._lock:
            self._scans.update({name: found for name, found in scans.items() if name in self._models})
            self._converge(self._clock() if now is None else now)
        self._announce()

    def retry(self, name: str) -> None:
        """Give versions of a model that ended in an error another life, though their files haven't changed."""
        with self._lock:
            if name in self._ended:
                self._ended[name] = [version for version in self._ended[name] if version.error is None]
            for key, version in self._versions.items():
                if key.name == name and version.state is State.START:
                    version.retry_at = 0.0
        self.poll(self._clock())

    # What is there

    @property
    def generation(self) -> int:
        """Grows with every change of any status."""
        return self._generation

    def status(self) -> dict[str, ModelStatus]:
        """Every desired model and every version that is loaded or ended lately, versions descending."""
        with self._lock:
            names = {*self._models, *(key.name for key in self._versions), *self._ended}
            return {name: self._model_status(name) for name in sorted(names)}

    def acquire(self, name: str, version: int | None = None) -> Handle:
        """A handle to an AVAILABLE version, the highest one when `version` is None. Raises UnknownServable."""
        with self._lock:
            if version is None:
                version = max((key.version for key, found in self._versions.items() if key.name == name and found.available), default=None)
                if version is None:
                    raise UnknownServable(f"Servable not found for request: Latest({name})")
            key = ServableKey(name, version)
            entry = self._versions.get(key)
            if entry is None or not entry.available or entry.servable is None:
                raise UnknownServable(f"Servable not found for request: {key}")
            entry.num_handles += 1
            return Handle(entry, entry.servable, self._release)

    def wait(self, until: Callable[[Mapping[str, ModelStatus]], bool], timeout: float) -> bool:
        """Wait until the status satisfies a condition; whether it did in time."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                generation = self._generation
            if until(self.status()):
                return True
            with self._lock:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if generation == self._generation:
                    self._lock.wait(left)

    # The end

    def drain(self, timeout: float) -> bool:
        """Retire everything and wait until all is unloaded; whether that was so in time."""
        self.set_desired(())
        deadline = time.monotonic() + timeout
        with self._lock:
            while self._versions:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._lock.wait(left)
        return True

    def close(self, timeout: float = 30.0) -> bool:
        """Drain, then end the threads. A load that hangs is left behind; nothing new begins."""
        drained = self.drain(timeout)
        with self._lock:
            self._closed = True
        self._load_pool.shutdown(wait=drained, cancel_futures=True)
        self._unload_pool.shutdown(wait=drained, cancel_futures=True)
        self._prepare_pool.shutdown(wait=drained, cancel_futures=True)
        return drained

    # Convergence: all of it under the lock

    def _converge(self, now: float) -> None:
        if self._closed:
            return
        wanted: set[ServableKey] = set()
        for model in self._models.values():
            found = self._scans.get(model.name)
            if found is not None:
                wanted |= self._want(model, found)
        for key, version in list(self._versions.items()):
            if key not in wanted:
                self._retire(version, wanted)
        for key in sorted(wanted, key=lambda key: -key.version):
            version = self._versions[key]
            if version.state is State.START and version.retry_at <= now and not self._must_wait(version, wanted):
                self._begin(version)

    def _want(self, model: DesiredModel, found: Scan) -> set[ServableKey]:
        """The versions of a model that should be live, each with an entry."""
        wanted: set[ServableKey] = set()
        if found.fault is not None:  # nothing is known about the directory: keep what is loaded
            return self._keep(model)
        for number in choose(model, found):
            key = ServableKey(model.name, number)
            path = found.paths.get(number)
            version = self._versions.get(key)
            if version is None:
                if path is None or self._has_failed(key, model, path):
                    continue
                version = self._versions[key] = self._new_version(key, model, path)
            version.outdated = path is not None and not version.same_source(model, path)
            if version.outdated:
                continue  # what is loaded comes from elsewhere: it ends first, then a new life begins
            version.model = model
            wanted.add(key)
        return wanted

    def _new_version(self, key: ServableKey, model: DesiredModel, path: str) -> Version:
        version = Version(key, model, path)
        deaths = self._marks.num_deaths(key, fingerprint(path))
        if delay := self._marks.delay(deaths):
            version.retry_at = self._clock() + delay
            version.error = Unavailable(f"{deaths} processes died while they loaded this version; the next try is in {delay:.0f} s")
        self._touch()
        return version

    def _keep(self, model: DesiredModel) -> set[ServableKey]:
        kept = {key for key in self._versions if key.name == model.name}
        for key in kept:
            self._versions[key].model = model
        return kept

    def _has_failed(self, key: ServableKey, model: DesiredModel, path: str) -> bool:
        """Whether this version's last life ended in an error and its files are still those that failed."""
        for version in self._ended.get(key.name, ()):
            if version.key == key:
                return version.error is not None and version.same_source(model, path) and version.files == fingerprint(path)
        return False

    def _retire(self, version: Version, wanted: set[ServableKey]) -> None:
        """Let go of a version that isn't wanted, unless it is the last one that answers while its successor loads."""
        if version.state is State.START:
            self._move(version, Event.DROP)
            self._end(version)
        elif version.state is State.AVAILABLE and not self._is_needed(version, wanted):
            self._move(version, Event.RETIRE)
            if not version.num_handles:
                self._unload_pool.submit(self._unload, version)

    def _is_needed(self, version: Version, wanted: set[ServableKey]) -> bool:
        model = self._models.get(version.key.name)
        if model is None or model.transition == "resource" or version.outdated:
            return False
        successors = [self._versions[key] for key in wanted if key.name == model.name]
        if not successors:  # what the policy wants can't even begin (clashing, missing or broken)
            return True
        return not any(successor.available for successor in successors)

    def _must_wait(self, version: Version, wanted: set[ServableKey]) -> bool:
        """Under the resource-preserving transition the old versions leave before a new one loads."""
        if version.model.transition != "resource":
            return False
        return any(key.name == version.key.name and key not in wanted for key in self._versions)

    def _begin(self, version: Version) -> None:
        self._move(version, Event.BEGIN)
        self._load_pool.submit(self._load, version)

    def _move(self, version: Version, event: Event) -> None:
        version.move(event)
        self._touch()
        fields = {"servable": str(version.key), "state": version.state.value}
        if version.error is not None:
            fields["error"] = version.error.message
        logger.info("servable state", extra=fields)

    def _end(self, version: Version) -> None:
        del self._versions[version.key]
        name = version.key.name
        ended = [version, *(old for old in self._ended.get(name, ()) if old.key != version.key)]
        self._ended[name] = ended[:KEPT_ENDED]
        for old in [old for old in self._ended if old not in self._models][:-KEPT_GONE]:
            del self._ended[old]

    def _touch(self) -> None:
        self._generation += 1
        self._lock.notify_all()

    def _announce(self) -> None:
        """Tell the owner of changes; called without the lock. A failing callback must not end a load thread."""
        if self._on_change is not None:
            try:
                self._on_change()
            except Exception:
                logger.exception("change callback failed")

    # Load and unload: on the pools' threads

    def _load(self, version: Version) -> None:
        started = self._clock()
        servable: Servable | None = None
        rules: Mapping[str, BatchRule] = {}
        error: EngineError | None = None
        files = fingerprint(version.path)
        try:
            self._marks.begin(version.key, files)
            servable, rules = self._load_and_probe(version, files)
        except EngineError as fault:
            error = fault
        except OSError as fault:
            error = InvalidModel(f"{version.path} can't be read: {fault}", Code.UNAVAILABLE)
        except Exception as fault:
            logger.exception("load failed", extra={"servable": str(version.key)})
            error = EngineError(f"{type(fault).__name__}: {fault}")
        self._marks.end(version.key)
        with self._lock:
            self._reserved.pop(version.key, None)
            now = self._clock()
            version.files = files
            version.load_seconds = now - started
            if servable is not None:
                version.take(servable, rules)
                self._move(version, Event.LOADED)
            elif error is not None:
                self._failed(version, error, now)
            self._converge(now)
        self._announce()

    def _load_and_probe(self, version: Version, files: tuple[object, ...]) -> tuple[Servable, Mapping[str, BatchRule]]:
        model, key = version.model, version.key
        loader = self._loaders[model.platform].result()
        request = LoadRequest(key.name, key.version, version.path, model.tags)
        self._reserve(key, loader.estimate_bytes(request))
        servable = loader.load(request)
        try:
            if fingerprint(version.path) != files:
                raise EngineError(f"files of {key.name} version {key.version} changed while they were loaded", Code.ABORTED)
            return servable, probe_servable(servable, stateful=model.stateful)
        except BaseException:
            servable.unload()
            raise

    def _reserve(self, key: ServableKey, needed: int) -> None:
        """Raises NoMemory when a load doesn't fit beside those under way."""
        available = self._find_available()
        with self._lock:
            promised = sum(self._reserved.values())
            if available is not None and needed > available - promised:
                raise NoMemory(
                    f"loading {key.name} version {key.version} needs about {needed >> 20} MB, "
                    f"{max(available - promised, 0) >> 20} MB are available"
                )
            self._reserved[key] = needed

    def _failed(self, version: Version, error: EngineError, now: float) -> None:
        version.error = error
        version.num_failures += 1
        if version.num_failures > version.model.max_retries or version.key.name not in self._models:
            self._move(version, Event.GIVE_UP)
            self._end(version)
        else:
            version.retry_at = now + min(version.model.retry_delay * 2 ** (version.num_failures - 1), MAX_RETRY_DELAY)
            self._move(version, Event.FAIL)

    def _release(self, version: Version) -> None:
        with self._lock:
            version.num_handles -= 1
            if version.state is State.UNLOADING and not version.num_handles:
                self._unload_pool.submit(self._unload, version)

    def _unload(self, version: Version) -> None:
        try:
            if version.servable is not None:
                version.servable.unload()
        except Exception:
            logger.exception("unload failed", extra={"servable": str(version.key)})
        version.servable = None
        trim()
        with self._lock:
            self._move(version, Event.UNLOADED)
            self._end(version)
            self._converge(self._clock())
        self._announce()

    # Status

    def _model_status(self, name: str) -> ModelStatus:
        found = self._scans.get(name, Scan())
        versions = [version.status() for key, version in self._versions.items() if key.name == name]
        shown = {version.version for version in versions}
        for number, (code, text) in found.version_faults.items():
            if number not in shown:
                shown.add(number)
                versions.append(VersionStatus(name, number, State.END, code.name, text))
        versions += [version.status() for version in self._ended.get(name, ()) if version.key.version not in shown]
        versions.sort(key=lambda version: -version.version)
        code, text = found.fault or (Code.OK, "")
        return ModelStatus(name, code.name, text, tuple(versions))


def _has_raised(future: "Future[Loader]") -> bool:
    return future.done() and future.exception() is not None
