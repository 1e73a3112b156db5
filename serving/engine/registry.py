"""Which loader serves which platform: the entry-point group `daybook.servables` and the built-in `tensorflow`."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from .errors import InvalidOptions
from .servable import Servable

GROUP = "daybook.servables"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A version directory to be loaded as `name`, `version`."""

    name: str
    version: int
    path: str
    tags: tuple[str, ...] = ("serve",)


class Loader(Protocol):
    """Makes servables of one platform. Both methods are called on load threads, several at once."""

    def estimate_bytes(self, request: LoadRequest) -> int:
        """An upper bound of the memory that the loaded version will take. Raises EngineError when the files aren't there."""
        ...

    def load(self, request: LoadRequest) -> Servable:
        """Load it, ready to run. Raises EngineError with a text for people; must not leave anything behind then."""
        ...


def find_loader(platform: str) -> Loader:
    """The loader of a platform. Raises InvalidOptions when no installed package offers one."""
    if platform == "tensorflow":
        from .tensorflow_servable import TensorflowLoader  # opens TensorFlow's libraries

        return TensorflowLoader()
    for point in entry_points(group=GROUP, name=platform):
        make: Callable[[], Loader] = point.load()
        return make()
    raise InvalidOptions(f"Model requests unsupported platform {platform}")
