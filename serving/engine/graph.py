"""What a signature's runs do besides computing: found by following the graph from its outputs, functions included.

A run that changes a variable or a table may not be repeated, and one that draws random numbers may not be shared: neither can be
learned by trying without doing harm, or at all when the draw seldom matters. A run with a loop may never end, and has to be run so
that its timeout can break it off.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from serving.protocol.protos.graph_pb2 import NodeDef

from .wire import walk

_NODE, _LIBRARY, _FUNCTION, _FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 2, 1, 1, 3  # field numbers
_SMALL = 1 << 16  # a node above this is a constant: its attributes aren't parsed

_WRITES = ("Assign", "Scatter", "ResourceScatter", "ResourceApply", "ResourceSparseApply", "Apply", "SparseApply", "CountUpTo",
           "ResourceCountUpTo", "LookupTableInsert", "LookupTableRemove", "QueueEnqueue", "QueueDequeue", "StackPush", "StackPop",
           "TensorListPushBackBatch", "MutableHashTableInsert", "IteratorGetNext", "WriteFile", "WriteSummary")  # fmt: skip
_PURE = ("ScatterNd", "ScatterNdNonAliasingAdd", "ApplyCustom", "TensorListPushBackBatch")
_DRAWS = ("Random", "Stateful", "TruncatedNormal", "Multinomial", "ParameterizedTruncatedNormal", "SampleDistortedBoundingBox", "Rng")
_LOOPS = frozenset({"While", "StatelessWhile", "For", "Enter", "RefEnter", "BatchFunction", "RemoteCall", "DatasetReduce", "ReduceDataset"})
_NOT_DRAWS = ("StatefulPartitionedCall", "RandomDataset", "RandomCrop")


class _Node(NamedTuple):
    op: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]


class RunFacts(NamedTuple):
    """What a signature's runs do. `side_effect` is a sentence why they can't be shared or repeated, "" when nothing was found."""

    side_effect: str
    loops: bool


UNREAD = RunFacts("", True)  # what is assumed of a graph that can't be followed


def find_run_facts(graph: memoryview, outputs: Mapping[str, Sequence[str]]) -> dict[str, RunFacts]:
    """What each signature's runs do.

    graph: a serialized GraphDef. outputs: by signature, names of graph tensors ("node:0"). Raises wire.Malformed, DecodeError.
    """
    nodes: dict[str, _Node] = {}
    functions: dict[str, list[_Node]] = {}
    for number, _, part in walk(graph):
        if number == _NODE:
            name, node = _read_node(part)
            nodes[name] = node
        elif number == _LIBRARY:
            functions.update(_read_function(function) for number, _, function in walk(part) if number == _FUNCTION)
    found = {}
    for signature, tensors in outputs.items():
        ops = set(_reach(nodes, functions, tensors))
        effects = sorted(f"its runs {_effect(op)} ({op})" for op in ops if _effect(op))
        found[signature] = RunFacts(effects[0] if effects else "", not ops.isdisjoint(_LOOPS))
    return found


def _effect(op: str) -> str:
    if op.startswith(_DRAWS) and op not in _NOT_DRAWS:
        return "draw random numbers"
    if op.startswith(_WRITES) and op not in _PURE:
        return "change the model's state"
    return ""


def _reach(nodes: Mapping[str, _Node], functions: Mapping[str, list[_Node]], tensors: Sequence[str]) -> Iterator[str]:
    """The ops that a fetch of these tensors runs. A function's whole body counts: its stateful ops always run."""
    names = [tensor.split(":")[0] for tensor in tensors]
    seen = set(names)
    called: list[str] = []
    while names:
        node = nodes.get(names.pop())
        if node is None:
            continue
        yield node.op
        called += [node.op, *node.functions]
        for tensor in node.inputs:
            name = tensor.lstrip("^").split(":")[0]
            if name not in seen:
                seen.add(name)
                names.append(name)
    entered: set[str] = set()
    while called:
        function = called.pop()
        if function in entered or function not in functions:
            continue
        entered.add(function)
        for node in functions[function]:
            yield node.op
            called += [node.op, *node.functions]


def _read_function(view: memoryview) -> tuple[str, list[_Node]]:
    name = ""
    body = []
    for number, _, part in walk(view):
        if number == _FUNCTION_SIGNATURE:
            name = next((str(field, "utf-8", "replace") for number, _, field in walk(part) if number == 1), "")
        elif number == _FUNCTION_NODE:
            body.append(_read_node(part)[1])
    return name, body


def _read_node(view: memoryview) -> tuple[str, _Node]:
    if len(view) > _SMALL:
        name = op = ""
        inputs = []
        for number, _, part in walk(view):
            if number == 1:
                name = str(part, "utf-8", "replace")
            elif number == 2:
                op = str(part, "utf-8", "replace")
            elif number == 3:
                inputs.append(str(part, "utf-8", "replace"))
        return name, _Node(op, tuple(inputs), ())
    message = NodeDef.FromString(view.tobytes())
    functions = []
    for value in message.attr.values():
        if value.func.name:
            functions.append(value.func.name)
        functions += [function.name for function in value.list.func]
    return message.name, _Node(message.op, tuple(message.input), tuple(functions))
