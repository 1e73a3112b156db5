"""Does sharing a run change answers? Asked of every signature when it's loaded (RULES 5.1).

Theory. Rows may share a run when the model treats them one by one. That can't be read off a graph, but what breaks it shows: the
same rows are run together, apart, in another order, beside other rows, and padded, and every row's outputs must be equal each
time within float tolerance. This catches a model that normalises over its batch or sums along it (a row's answer depends on its
neighbours), one that reshapes across rows (their number changes), one that is random or counts its calls (the same run twice
differs). Rows are drawn at several scales, small ones beside large ones too, since a model may clip what it mixes. A signature that
can't be run with made-up input isn't batched, and its status says so.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .batch import BatchRule, Form
from .dtypes import numpy_dtype
from .errors import EngineError
from .examples import Feature, learn_features, make_example
from .servable import BackgroundRunner, Servable, Signature, TensorSpec

NUM_ROWS = 5
SCALES = ([1.0] * 5, [0.1, 30.0, 1.0, 0.02, 5.0], [0.05] * 5, [30.0] * 5)  # of the rows' values, round by round
MIN_ROUNDS = 2
MAX_SECONDS = 10.0  # for the rounds after those
TIMEOUT_MS = 20_000
FREE_SIZES = (4, 16, 32, 64, 1, 224)  # tried for unknown dimensions other than the first, until one runs
_MAX_ELEMENTS = 1 << 22  # of one probing input: a model of huge inputs isn't probed at the price of its memory
_LOOSE = {"DT_HALF": 2e-2, "DT_BFLOAT16": 5e-2}


def probe_servable(servable: Servable, *, stateful: bool) -> dict[str, BatchRule]:
    """The rule of every signature. Never raises EngineError: a run that fails is a reason."""
    rules = {}
    for name, signature in servable.signatures.items():
        if stateful:
            rules[name] = BatchRule(False, "the deployment is stateful", rerun=False)
        elif name in servable.unbatchable:
            rules[name] = BatchRule(False, servable.unbatchable[name], rerun=False)
        else:
            rules[name] = _probe(servable, name, signature)
    return rules


def _probe(servable: Servable, name: str, signature: Signature) -> BatchRule:
    if not signature.inputs:
        return BatchRule(False, "it has no inputs", rerun=False)
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for alias, spec in specs.items():
            if spec.shape is not None and (not spec.shape or spec.shape[0] != -1):
                return BatchRule(False, f"{kind} {alias} has the shape {list(spec.shape)}: its dimension 0 is not unknown", rerun=False)
    run = _runner(servable, name)
    proven: list[Form] = []
    problem = ""
    for place, form in enumerate(_forms(signature)):
        try:
            rows = _find_rows(run, signature, form)
            fault = _find_fault(run, signature, rows)
        except EngineError as failure:
            problem = problem or f"not probed: {failure.message}"
            continue
        if fault and not place:
            return BatchRule(False, fault, rerun=False)
        if not fault:
            proven.append(form)
    if not proven:
        return BatchRule(False, problem, rerun=False)
    return BatchRule(True, "rows together, apart, reordered and padded gave equal outputs", tuple(proven))


Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class _Rows:
    """How to make up rows for a signature. `features` by input: those whose strings are examples."""

    signature: Signature
    trailing: Mapping[str, tuple[int, ...]]
    features: Mapping[str, Mapping[str, Feature]] = field(default_factory=dict)

    def draw(self, seed: int, scales: Sequence[float]) -> dict[str, np.ndarray]:
        """One row for each scale, all different where the dtype allows it."""
        generator = np.random.default_rng(seed)
        return {
            alias: np.stack([self._row(alias, spec, generator, scale) for scale in scales]) for alias, spec in self.signature.inputs.items()
        }

    def _row(self, alias: str, spec: TensorSpec, generator: np.random.Generator, scale: float) -> np.ndarray:
        dtype, shape = numpy_dtype(spec.dtype), self.trailing[alias]
        if spec.dtype == "DT_STRING":
            values = np.empty(shape, object)
            features = self.features.get(alias)
            for place in np.ndindex(shape):
                values[place] = make_example(features, generator, scale) if features else b"%d" % generator.integers(0, 10)
            return values
        if dtype.kind in "biu":  # small, since it may index a table; 0 and 1 are nearly always there
            return generator.integers(0, 2, shape).astype(dtype)
        values = generator.normal(0.0, scale, shape)
        if dtype.kind == "c":
            values = values + 1j * generator.normal(0.0, scale, shape)
        return np.asarray(values).astype(dtype)


def _runner(servable: Servable, name: str) -> Run:
    if isinstance(servable, BackgroundRunner):
        background = servable.run_in_background
        return lambda inputs: background(name, inputs, timeout_ms=TIMEOUT_MS)
    return lambda inputs: servable.run(name, inputs, timeout_ms=TIMEOUT_MS)


def _forms(signature: Signature) -> Iterator[Form]:
    """The feeds that are probed: as declared, then with a trailing 1 left out, as TensorFlow Serving's own examples do.

    Shapes aren't checked against the signature when a model is called, so that a feed of another rank can reach the graph; it is
    batched only when shown to be safe. An unknown rank is probed with one and with two dimensions.
    """
    declared: dict[str, list[tuple[int, ...]]] = {}
    for alias, spec in signature.inputs.items():
        if spec.shape is None:
            declared[alias] = [(), (-1,)]
        elif spec.shape[1:] in ((1,), (-1,)):
            declared[alias] = [spec.shape[1:], ()]
        else:
            declared[alias] = [spec.shape[1:]]
    longest = max(len(choices) for choices in declared.values())
    for place in range(longest):
        yield {alias: choices[min(place, len(choices) - 1)] for alias, choices in declared.items()}


def _find_rows(run: Run, signature: Signature, form: Form) -> _Rows:
    """Rows with which the signature runs: sizes of unknown dimensions, features of examples. Raises EngineError of the first try."""
    first: EngineError | None = None
    for size in FREE_SIZES:
        trailing = {alias: tuple(size if n == -1 else n for n in pattern or ()) for alias, pattern in form.items()}
        if any(NUM_ROWS * int(np.prod(shape, dtype=np.int64)) > _MAX_ELEMENTS for shape in trailing.values()):
            first = first or EngineError("its inputs are too large")
            continue
        rows = _Rows(signature, trailing)
        try:
            run(rows.draw(0, [1.0]))
        except EngineError as error:
            first = first or error
            rows = _with_features(run, rows)
            if not rows.features:
                continue
        return rows
    raise first or EngineError("its inputs can't be made up")


def _with_features(run: Run, rows: _Rows) -> _Rows:
    """The same rows with examples in the string input, if there is one and only one and it takes them."""
    aliases = [alias for alias, spec in rows.signature.inputs.items() if spec.dtype == "DT_STRING" and not rows.trailing[alias]]
    if len(aliases) != 1:
        return rows

    def try_example(example: bytes) -> None:
        strings = np.empty(1, object)
        strings[0] = example
        run({**rows.draw(0, [1.0]), aliases[0]: strings})

    features = learn_features(try_example)
    return replace(rows, features={aliases[0]: features}) if features else rows


def _find_fault(run: Run, signature: Signature, rows: _Rows) -> str:
    """How sharing a run changes the answers, or "" when it doesn't. Raises EngineError when the model can't run ordinary rows."""
    started = time.monotonic()
    for seed, scales in enumerate(SCALES):
        if seed >= MIN_ROUNDS and time.monotonic() - started > MAX_SECONDS:
            break
        inputs = rows.draw(seed, scales)
        try:
            together = run(inputs)
        except EngineError:
            if not seed:
                raise
            continue  # rows of an unusual size may be refused: nothing is learned from them
        for alias, output in together.items():
            if not output.ndim or output.shape[0] != NUM_ROWS:
                return f"output {alias} has the shape {list(output.shape)} for {NUM_ROWS} rows"
        if not _equal(together, run(inputs), signature):
            return "the same input twice gives different outputs"
        for place in range(NUM_ROWS):
            if not _equal(run(_pick(inputs, [place])), _pick(together, [place]), signature):
                return "a row gives another output alone than beside others"
        for places in ([4, 3, 2, 1, 0], [1, 3], [2, 0, 4, 4, 4, 4, 4, 4], [0, 1, 2, 0, 0, 0, 0, 0]):
            if not _equal(run(_pick(inputs, places)), _pick(together, places), signature):
                return "a row gives another output in another batch or beside padding"
    return ""


def _pick(arrays: Mapping[str, np.ndarray], places: Sequence[int]) -> dict[str, np.ndarray]:
    return {alias: array[places] for alias, array in arrays.items()}


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], signature: Signature) -> bool:
    """Equal within what another order of summing can do: a few units in the last places of the largest value."""
    if one.keys() != other.keys():
        return False
    for alias, left in one.items():
        right = other[alias]
        if left.shape != right.shape:
            return False
        tolerance = _LOOSE.get(signature.outputs[alias].dtype, 1e-4)
        if left.dtype.kind in "fcV" or signature.outputs[alias].dtype in _LOOSE:
            wide = np.complex128 if left.dtype.kind == "c" else np.float64
            left, right = left.astype(wide), right.astype(wide)
            size = np.max(np.abs(left), initial=0.0, where=np.isfinite(left))
            if not np.allclose(left, right, rtol=tolerance, atol=1e-2 * tolerance * size, equal_nan=True):
                return False
        elif not np.array_equal(left, right):
            return False
    return True
