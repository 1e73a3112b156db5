"""The manager: what is loaded follows what is desired, and one broken model never stops another."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.engine.crashes import CrashMarks
from serving.engine.errors import Code, InvalidOptions, UnknownServable
from serving.engine.lifecycle import ModelStatus, VersionStatus
from serving.engine.manager import KEPT_ENDED, Manager
from serving.engine.options import All, BatchingOptions, DesiredModel, Latest, Specific
from serving.engine.servable import ServableKey
from serving.engine.state import State
from serving.engine.versions import fingerprint
from tests.serving.engine.servables import NumpyLoader

WAIT = 20.0  # far more than anything takes; a wait that ends by it is a failure


class Stage:
    """A manager over a directory of models that NumPy runs, with the clock in the test's hand."""

    def __init__(self, root: Path, marks: Path | None = None) -> None:
        self.root = root
        self.loader = NumpyLoader()
        self.now = 1000.0
        self.available: int | None = None
        self.changes = 0
        self.manager = Manager(
            loaders=lambda platform: self.loader,
            clock=lambda: self.now,
            find_available=lambda: self.available,
            on_change=self._changed,
            marks=marks,
        )

    def _changed(self) -> None:
        self.changes += 1

    def make(self, name: str, *versions: int | str, broken: str = "") -> None:
        for version in versions:
            path = self.root / name / str(version)
            path.mkdir(parents=True)
            if broken:
                (path / "broken").write_text(broken)

    def model(self, name: str = "m", **options: Any) -> DesiredModel:
        return DesiredModel(name, str(self.root / name), **options)

    def desire(self, *models: DesiredModel) -> None:
        self.manager.set_desired(models)

    def poll(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.manager.poll(self.now)

    def states(self, name: str = "m") -> dict[int, State]:
        found = self.manager.status().get(name)
        return {version.version: version.state for version in found.versions} if found else {}

    def version(self, version: int, name: str = "m") -> VersionStatus:
        return next(found for found in self.manager.status()[name].versions if found.version == version)

    def await_version(self, version: int, name: str = "m") -> None:
        assert self.manager.wait(lambda _: self.states(name).get(version) is State.AVAILABLE, WAIT), self.states(name)

    def settle(self, expected: dict[int, State], name: str = "m") -> None:
        assert self.manager.wait(lambda _: self.states(name) == expected, WAIT), self.manager.status().get(name)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.loader.gate.set()
    assert stage.manager.close(WAIT)


LIVE, ENDED = State.AVAILABLE, State.END


def test_the_newest_version_is_served_by_default(stage: Stage) -> None:
    stage.make("m", 1, 3, 10)
    stage.desire(stage.model())
    stage.settle({10: LIVE})
    with stage.manager.acquire("m") as handle:
        assert handle.key == ServableKey("m", 10)
        assert handle.servable.run("serving_default", {"x": np.ones((1, 2), np.float32)}, timeout_ms=1)["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Latest(2), {10: LIVE, 3: LIVE}), (All(), {10: LIVE, 3: LIVE, 1: LIVE}), (Specific((1, 3)), {3: LIVE, 1: LIVE})],
)
def test_policies_choose_versions(stage: Stage, policy: Any, expected: dict[int, State]) -> None:
    stage.make("m", 1, 3, 10)
    stage.desire(stage.model(policy=policy))
    stage.settle(expected)


def test_names_that_are_not_versions_are_skipped(stage: Stage) -> None:
    stage.make("m", "0012", "13.tmp", "latest", "-1", "9" * 25, "1_0", "١")
    (stage.root / "m" / "20").write_text("a file")
    stage.desire(stage.model(policy=All()))
    stage.settle({12: LIVE})


def test_a_new_version_replaces_the_old_one_only_once_it_answers(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    stage.loader.gate.clear()
    stage.make("m", 2)
    stage.poll()
    stage.settle({2: State.LOADING, 1: LIVE})
    stage.manager.acquire("m").release()
    stage.loader.gate.set()
    stage.settle({2: LIVE, 1: ENDED})
    assert stage.loader.servables[ServableKey("m", 1)].unloaded


def test_a_broken_new_version_leaves_the_old_one_serving(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: LIVE})
    stage.make("m", 2, broken="no graph")
    stage.poll()
    stage.settle({2: ENDED, 1: LIVE})
    for _ in range(5):
        stage.poll(100.0)
    stage.settle({2: ENDED, 1: LIVE})
    assert stage.loader.loaded.count(ServableKey("m", 2)) == 1
    broken = stage.version(2)
    assert (broken.error_code, broken.error_message) == ("FAILED_PRECONDITION", "no graph")


def make_shard(stage: Stage) -> Path:
    """The weights of version 1 of `m`."""
    stage.make("m", 1)
    shard = stage.root / "m" / "1" / "variables" / "variables.data-00000-of-00001"
    shard.parent.mkdir()
    shard.write_bytes(b"these bytes")
    return shard


def test_a_version_whose_weights_were_repaired_is_loaded_again(stage: Stage) -> None:
    shard = make_shard(stage)
    stage.available = 0
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: ENDED})
    stage.available = None
    stage.poll()
    stage.settle({1: ENDED})
    shard.write_bytes(b"more bytes than before")
    stage.poll()
    stage.settle({1: LIVE})


def test_a_shard_replaced_while_it_is_loaded_is_loaded_anew(stage: Stage) -> None:
    """Otherwise the record would name other bytes than those that answer (P5)."""
    shard = make_shard(stage)
    stage.loader.gate.clear()
    stage.desire(stage.model(max_retries=0))
    assert stage.loader.entered.wait(20)
    shard.write_bytes(b"other bytes")
    stage.loader.gate.set()
    stage.settle({1: LIVE})
    assert stage.loader.loaded == [ServableKey("m", 1)] * 2


def test_the_resource_preserving_transition_unloads_first(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model(transition="resource"))
    stage.settle({1: LIVE})
    stage.loader.gate.clear()
    stage.make("m", 2)
    stage.poll()
    stage.settle({2: State.LOADING, 1: ENDED})


def test_one_broken_model_does_not_stop_the_others(stage: Stage) -> None:
    stage.make("good", 1)
    stage.make("bad", 1, broken="bad graph")
    stage.make("empty")
    (stage.root / "empty").mkdir()
    stage.desire(stage.model("bad", max_retries=0), stage.model("missing"), stage.model("empty"), stage.model("good"))
    stage.settle({1: LIVE}, "good")
    stage.settle({1: ENDED}, "bad")
    status = stage.manager.status()
    assert (status["missing"].error_code, status["missing"].error_message) == (
        "NOT_FOUND",
        f"Could not find base path {stage.root}/missing for servable missing",
    )
    assert status["empty"].error_message == (
        f"No versions of servable empty found under base path {stage.root}/empty. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )
    assert status["good"].error_code == "OK"


def test_a_directory_that_appears_later_is_served(stage: Stage) -> None:
    stage.desire(stage.model())
    assert stage.manager.status()["m"].error_code == "NOT_FOUND"
    stage.make("m", 1)
    stage.poll()
    stage.settle({1: LIVE})
    assert stage.manager.status()["m"].error_code == "OK"


def test_a_directory_that_vanishes_leaves_what_is_loaded_and_is_said(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    (stage.root / "m").rename(stage.root / "elsewhere")
    stage.poll()
    assert stage.states() == {1: LIVE}
    assert stage.manager.status()["m"].error_code == "NOT_FOUND"


def test_a_load_is_tried_again_with_longer_and_longer_pauses(stage: Stage) -> None:
    stage.make("m", 1, broken="not yet")
    stage.desire(stage.model(max_retries=3, retry_delay=4.0))
    key = ServableKey("m", 1)

    def tried(times: int) -> None:
        assert stage.manager.wait(lambda _: stage.version(1).num_failures == times, WAIT)

    tried(1)
    waiting = stage.version(1)
    assert (waiting.state, waiting.error_message) == (State.START, "not yet")
    for times, pause in ((2, 4.0), (3, 8.0), (4, 16.0)):
        stage.poll(pause - 0.1)
        assert stage.loader.loaded.count(key) == times - 1
        stage.poll(0.1)
        tried(times)
    stage.settle({1: ENDED})
    assert stage.loader.loaded.count(key) == 4


def test_a_load_that_succeeds_at_last_forgets_its_failures(stage: Stage) -> None:
    stage.make("m", 1, broken="copying")
    stage.desire(stage.model())
    assert stage.manager.wait(lambda _: stage.version(1).num_failures == 1, WAIT)
    (stage.root / "m" / "1" / "broken").unlink()
    stage.poll(100.0)
    stage.settle({1: LIVE})
    assert (stage.version(1).error_code, stage.version(1).num_failures) == ("OK", 0)


def test_a_failed_version_is_loaded_again_when_its_files_change(stage: Stage) -> None:
    stage.make("m", 1, broken="bad")
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: ENDED})
    (stage.root / "m" / "1" / "broken").unlink()
    (stage.root / "m" / "1" / "saved_model.pb").write_bytes(b"good")
    stage.poll()
    stage.settle({1: LIVE})


def test_an_operator_may_ask_for_another_try(stage: Stage) -> None:
    stage.make("m", 1, broken="bad")
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: ENDED})
    stage.manager.retry("m")
    assert stage.manager.wait(lambda _: stage.loader.loaded == [ServableKey("m", 1)] * 2 and stage.states() == {1: ENDED}, WAIT)


def test_two_directories_of_one_version_are_a_visible_fault(stage: Stage) -> None:
    stage.make("m", 1, 2, "02")
    stage.desire(stage.model(policy=All()))
    stage.settle({2: ENDED, 1: LIVE})
    clash = stage.version(2)
    assert (clash.error_code, clash.error_message) == ("FAILED_PRECONDITION", "Version 2 of m has several directories: 02, 2")


def test_a_specific_version_that_is_not_there_is_a_visible_fault(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model(policy=Specific((1, 7))))
    stage.settle({7: ENDED, 1: LIVE})
    assert stage.version(7).error_message == f"Version 7 of servable m was requested but not found under {stage.root}/m"


def test_a_model_left_out_is_unloaded(stage: Stage) -> None:
    stage.make("a", 1)
    stage.make("b", 1)
    stage.desire(stage.model("a"), stage.model("b"))
    stage.settle({1: LIVE}, "a")
    stage.settle({1: LIVE}, "b")
    stage.desire(stage.model("b"))
    stage.settle({1: ENDED}, "a")
    assert stage.states("b") == {1: LIVE}


def test_a_version_is_drained_before_it_is_unloaded(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    first, second = stage.manager.acquire("m", 1), stage.manager.acquire("m", 1)
    stage.desire()
    assert stage.states() == {1: State.UNLOADING}
    servable = stage.loader.servables[ServableKey("m", 1)]
    with pytest.raises(UnknownServable, match=r"^Servable not found for request: Specific\(m, 1\)$"):
        stage.manager.acquire("m", 1)
    first.release()
    first.release()
    assert not servable.unloaded
    second.release()
    stage.settle({1: ENDED})
    assert servable.unloaded


def test_what_stops_being_wanted_while_it_loads_is_unloaded(stage: Stage) -> None:
    stage.make("m", 1)
    stage.loader.gate.clear()
    stage.desire(stage.model())
    stage.settle({1: State.LOADING})
    stage.desire()
    stage.loader.gate.set()
    stage.settle({1: ENDED})
    assert stage.loader.servables[ServableKey("m", 1)].unloaded


def test_loads_do_not_wait_for_each_other(stage: Stage) -> None:
    stage.make("slow", 1)
    stage.make("quick", 1)
    slow, entered = threading.Event(), threading.Event()
    load = stage.loader.load

    class Loader(NumpyLoader):
        def load(self, request):  # type: ignore[no-untyped-def]
            if request.name == "slow":
                entered.set()
                slow.wait(WAIT)
            return load(request)

    stage.loader = Loader()
    stage.desire(stage.model("slow"))
    assert entered.wait(WAIT)
    stage.desire(stage.model("slow"), stage.model("quick"))
    stage.settle({1: LIVE}, "quick")
    assert stage.states("slow") == {1: State.LOADING}
    slow.set()
    stage.settle({1: LIVE}, "slow")


def test_options_that_need_no_reload_apply_at_once(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    with stage.manager.acquire("m") as handle:
        before = handle.rules["serving_default"].batched
        stage.desire(stage.model(batching=BatchingOptions(mode="off", max_batch_size=8), weight=2.0))
        assert (before, handle.rules["serving_default"].batched) == (True, False)
        assert (handle.model.weight, handle.model.batching.max_batch_size) == (2.0, 8)
    assert stage.loader.loaded == [ServableKey("m", 1)]


def test_another_path_loads_anew(stage: Stage) -> None:
    stage.make("m", 1)
    stage.make("n", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    first = stage.loader.servables[ServableKey("m", 1)]
    stage.desire(DesiredModel("m", str(stage.root / "n")))
    assert stage.manager.wait(lambda _: len(stage.loader.loaded) == 2 and stage.states() == {1: LIVE}, WAIT)
    assert first.unloaded


def test_batching_on_overrides_the_probe(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model(stateful=True, batching=BatchingOptions(mode="on")))
    stage.settle({1: LIVE})
    rule = stage.version(1).rules["serving_default"]
    assert (rule.batched, rule.rerun) == (True, False)
    assert rule.reason == "batching is on although: the deployment is stateful"


def test_a_load_that_cannot_fit_is_refused_with_the_numbers(stage: Stage) -> None:
    stage.make("m", 1)
    stage.loader.bytes = 300 << 20
    stage.available = 200 << 20
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: ENDED})
    refused = stage.version(1)
    assert (refused.error_code, refused.error_message) == (
        "RESOURCE_EXHAUSTED",
        "loading m version 1 needs about 300 MB, 200 MB are available",
    )
    stage.available = 400 << 20
    stage.manager.retry("m")
    stage.settle({1: LIVE})


def test_loads_under_way_count_against_the_memory(stage: Stage) -> None:
    stage.make("a", 1)
    stage.make("b", 1)
    stage.loader.bytes = 300 << 20
    stage.available = 500 << 20
    stage.loader.gate.clear()
    stage.desire(stage.model("a"))
    assert stage.loader.entered.wait(WAIT)
    stage.desire(stage.model("a"), stage.model("b", max_retries=0))
    stage.settle({1: ENDED}, "b")
    stage.loader.gate.set()
    stage.settle({1: LIVE}, "a")


def test_a_version_whose_loads_ended_processes_waits_while_others_serve(tmp_path: Path) -> None:
    stage = Stage(tmp_path, marks=tmp_path / "marks")
    stage.make("bad", 1)
    stage.make("good", 1)
    key = ServableKey("bad", 1)
    mark = {"pid": 2**22 + 1, "started": "1", "files": "", "deaths": 2}
    marks = CrashMarks(tmp_path / "marks")
    marks.begin(key, fingerprint(str(tmp_path / "bad" / "1")))
    (file,) = (tmp_path / "marks").iterdir()
    file.write_text(json.dumps({**mark, "files": json.loads(file.read_text())["files"]}))
    stage.desire(stage.model("bad"), stage.model("good"))
    stage.settle({1: LIVE}, "good")
    waiting = stage.version(1, "bad")
    assert (waiting.state, waiting.error_message) == (
        State.START,
        "3 processes died while they loaded this version; the next try is in 8 s",
    )
    stage.poll(8.0)
    stage.settle({1: LIVE}, "bad")
    assert list((tmp_path / "marks").iterdir()) == []
    assert stage.manager.close(WAIT)


def test_only_the_newest_ended_versions_are_kept(stage: Stage) -> None:
    for version in range(1, 9):
        stage.make("m", version)
        if version == 1:
            stage.desire(stage.model())
        stage.poll()
        stage.await_version(version)
    stage.settle({8: LIVE, **{8 - place: ENDED for place in range(1, KEPT_ENDED + 1)}})


def test_what_has_ended_keeps_its_artifact(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    stage.desire()
    stage.settle({1: ENDED})
    assert stage.version(1).artifact == "0" * 64


def test_an_unknown_platform_is_an_error_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    manager = Manager(find_available=lambda: None)
    manager.set_desired([DesiredModel("m", str(tmp_path / "m"), platform="caffe", max_retries=0)])

    def ended(status: Any) -> bool:
        return [version.error_message for version in status["m"].versions] == ["Model requests unsupported platform caffe"]

    assert manager.wait(ended, WAIT)
    assert manager.close(WAIT)


def test_a_loader_that_crashes_is_an_error_of_its_version(stage: Stage) -> None:
    stage.make("m", 1)

    def crash(request: object) -> Any:
        raise ZeroDivisionError("oops")

    stage.loader.load = crash  # type: ignore[method-assign]
    stage.desire(stage.model(max_retries=0))
    stage.settle({1: ENDED})
    assert (stage.version(1).error_code, stage.version(1).error_message) == ("INTERNAL", "ZeroDivisionError: oops")


def test_unknown_servables_are_named_as_tensorflow_serving_does(stage: Stage) -> None:
    with pytest.raises(UnknownServable, match=r"^Servable not found for request: Latest\(nope\)$") as unknown:
        stage.manager.acquire("nope")
    assert unknown.value.code is Code.NOT_FOUND


def test_a_model_listed_twice_is_refused_and_nothing_changes(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    with pytest.raises(InvalidOptions, match=r"^Illegal to list model n multiple times in config list$"):
        stage.desire(stage.model("n"), stage.model("n"))
    stage.poll()
    assert stage.states() == {1: LIVE}


def test_changes_are_announced(stage: Stage) -> None:
    stage.make("m", 1)
    before = stage.manager.generation
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    assert stage.manager.generation > before
    assert stage.manager.wait(lambda _: stage.changes >= 2, WAIT)


def test_drain_waits_for_handles_and_says_when_it_was_in_vain(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    handle = stage.manager.acquire("m")
    assert not stage.manager.drain(0.05)
    handle.release()
    assert stage.manager.drain(WAIT)


def test_handles_may_come_and_go_while_versions_do(stage: Stage) -> None:
    stage.make("m", 1)
    stage.desire(stage.model())
    stage.settle({1: LIVE})
    stop = threading.Event()
    wrong: list[str] = []

    def use() -> None:
        while not stop.is_set():
            try:
                with stage.manager.acquire("m") as handle:
                    if stage.loader.servables[handle.key].unloaded:
                        wrong.append(str(handle.key))
            except UnknownServable as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 12):
        stage.make("m", version)
        stage.poll()
        stage.await_version(version)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def wait_for(manager: Manager, condition: Callable[[dict[str, ModelStatus]], bool]) -> None:
    assert manager.wait(lambda status: condition(dict(status)), WAIT), manager.status()


def test_savedmodels_good_and_bad_beside_each_other(models: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "readme" / "1").mkdir(parents=True)
    (tmp_path / "readme" / "1" / "README").write_text("hello")
    (tmp_path / "cut" / "3").mkdir(parents=True)
    whole = Path(models["half_plus_two"], "1", "saved_model.pb").read_bytes()
    (tmp_path / "cut" / "3" / "saved_model.pb").write_bytes(whole[: len(whole) // 3])
    manager = Manager()
    manager.set_desired(
        [
            DesiredModel("half_plus_two", models["half_plus_two"], policy=All()),
            DesiredModel("readme", str(tmp_path / "readme"), max_retries=0),
            DesiredModel("cut", str(tmp_path / "cut"), max_retries=0),
            DesiredModel("mlp", models["mlp"]),
        ]
    )
    wait_for(manager, lambda status: status["half_plus_two"].available == (2, 1) and status["mlp"].available == (1,))
    wait_for(manager, lambda status: [status[name].versions[0].state for name in ("readme", "cut")] == [ENDED, ENDED])
    status = manager.status()
    assert "is not a SavedModel" in status["readme"].versions[0].error_message
    assert "is truncated or not a SavedModel" in status["cut"].versions[0].error_message
    for version, plus in ((1, 2.0), (2, 3.0)):
        with manager.acquire("half_plus_two", version) as handle:
            assert handle.servable.run("serving_default", {"x": np.ones((1, 1), np.float32)}, timeout_ms=1000)["y"].tolist() == [
                [0.5 + plus]
            ]
    artifacts = {found.artifact for name in ("half_plus_two", "mlp") for found in status[name].versions}
    assert len(artifacts) == 3
    started = time.monotonic()
    assert manager.close(WAIT)
    assert time.monotonic() - started < WAIT


@pytest.mark.skipif(sys.platform != "linux", reason="niceness of threads is Linux's")
def test_only_threads_that_load_have_low_priority(models: dict[str, str]) -> None:
    manager = Manager()
    manager.set_desired([DesiredModel("mlp", models["mlp"])])
    wait_for(manager, lambda status: status["mlp"].available == (1,))
    base = os.getpriority(os.PRIO_PROCESS, os.getpid())
    nice = {name: niceness - base for name, niceness in _threads()}
    assert {name for name, more in nice.items() if more} == {"tf_Compute1"}
    assert nice["tf_Compute1"] > 0
    assert nice["tf_Compute0"] == 0
    assert manager.close(WAIT)


def _threads() -> Iterator[tuple[str, int]]:
    for task in Path("/proc/self/task").iterdir():
        name, _, fields = (task / "stat").read_text().rpartition(")")
        yield name.partition("(")[2], int(fields.split()[16])
