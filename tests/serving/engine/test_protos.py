"""Our minimal messages beside TensorFlow's own: the same numbers on the wire."""

import json
from pathlib import Path

from google.protobuf.descriptor import Descriptor

from serving.engine.dtypes import NUMBERS
from serving.protocol.protos import config_pb2, example_pb2, graph_pb2, saved_model_pb2, tensor_pb2

FILES = (config_pb2, example_pb2, graph_pb2, saved_model_pb2, tensor_pb2)


def messages() -> list[Descriptor]:
    found: list[Descriptor] = []
    waiting = [message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()]
    while waiting:
        message = waiting.pop()
        found.append(message)
        waiting += message.nested_types
    return found


def test_every_field_has_tensorflows_number_type_and_label(models: dict[str, str]) -> None:
    theirs = json.loads((Path(models["mlp"]).parent / "messages.json").read_text())
    checked = 0
    for message in messages():
        name = message.full_name.replace("daybook.", "")
        for field in message.fields:
            assert [field.number, field.type, 3 if field.is_repeated else 1] == theirs[name][field.name], f"{name}.{field.name}"
            checked += 1
    assert checked > 60


def test_dtype_numbers_are_tensorflows(models: dict[str, str]) -> None:
    theirs = dict(json.loads((Path(models["mlp"]).parent / "messages.json").read_text())["enum"]["DataType"])
    for name, number in tensor_pb2.DataType.items():
        assert theirs[name] == number
    for name, number in NUMBERS.items():
        assert theirs[name] == number


def test_the_package_is_ours() -> None:
    assert {message.full_name.split(".")[0] for message in messages()} == {"daybook"}
