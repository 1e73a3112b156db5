"""Made-up `tf.Example`s for models that parse them, learned from the parser's own complaints.

A signature that takes serialized examples says nothing of their features; the op that parses them names, one run at a time, each
feature that it misses, its type and its shape. Features that may be absent stay absent.
Source: tensorflow/core/util/example_proto_fast_parsing.cc at v2.21.0.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from serving.protocol.protos.example_pb2 import Example

from .errors import EngineError

MAX_QUESTIONS = 512  # two for each feature
MAX_VALUES = 1 << 20  # of one feature
_MISSING = re.compile(r"Feature: (.+) \(data type: (float|int64|string)\) is required but could not be found")
_WRONG_SIZE = re.compile(r"Key: (.+), Index: \d+\.\s+Number of \w+ values != expected\.\s+Values size: \d+ but output shape: \[([\d,]*)\]")


class Feature(NamedTuple):
    """A required feature: its kind ("float", "int64", "string") and how many values it has."""

    kind: str
    size: int


def learn_features(run: Callable[[bytes], object]) -> dict[str, Feature] | None:
    """The features that an example must have, asked of `run`, which takes one serialized example.

    None when its input isn't an example, or when it complains of something else.
    """
    features: dict[str, Feature] = {}
    generator = np.random.default_rng(0)
    for _ in range(MAX_QUESTIONS):
        try:
            run(make_example(features, generator, 1.0))
        except EngineError as error:
            if found := _MISSING.search(error.message):
                name, feature = found[1], Feature(found[2], 1)
            elif (found := _WRONG_SIZE.search(error.message)) and found[1] in features:
                size = int(np.prod([int(n) for n in found[2].split(",") if n], dtype=np.int64))
                name, feature = found[1], Feature(features[found[1]].kind, size)
            else:
                return None
            if features.get(name) == feature or feature.size > MAX_VALUES:
                return None  # it has what it asked for and still complains
            features[name] = feature
        else:
            return features or None
    return None


def make_example(features: Mapping[str, Feature], generator: np.random.Generator, scale: float) -> bytes:
    """One serialized example with made-up values: floats of this scale, zeros and ones, short strings."""
    example = Example()
    for name, (kind, size) in features.items():
        feature = example.features.feature[name]
        if kind == "float":
            feature.float_list.value.extend(generator.normal(0.0, scale, size).tolist())
        elif kind == "int64":
            feature.int64_list.value.extend(generator.integers(0, 2, size).tolist())
        else:
            feature.bytes_list.value.extend(b"%d" % number for number in generator.integers(0, 10, size))
    return example.SerializeToString(deterministic=True)
