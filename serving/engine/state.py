"""The life of one version, as TensorFlow Serving names it.

    START ──begin──► LOADING ──loaded──► AVAILABLE ──retire──► UNLOADING ──unloaded──► END
      ▲ └─drop──► END   │ └─give_up──► END
      └─────fail────────┘

A load isn't broken off: what isn't wanted any more when it is loaded is retired then. A version that failed waits in START for its
next try, its error shown. What is in END never comes back: a version that is wanted again (its files changed, its deployment
returned) starts a new life.
"""

from enum import StrEnum


class State(StrEnum):
    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


class Event(StrEnum):
    BEGIN = "begin"  # its load is handed to a load thread
    LOADED = "loaded"
    FAIL = "fail"  # the load failed and will be tried again
    GIVE_UP = "give_up"  # the load failed for the last time
    RETIRE = "retire"  # not wanted any more: no new handles from here on
    UNLOADED = "unloaded"
    DROP = "drop"  # not wanted any more before its load began


TRANSITIONS = {
    (State.START, Event.BEGIN): State.LOADING,
    (State.START, Event.DROP): State.END,
    (State.LOADING, Event.LOADED): State.AVAILABLE,
    (State.LOADING, Event.FAIL): State.START,
    (State.LOADING, Event.GIVE_UP): State.END,
    (State.AVAILABLE, Event.RETIRE): State.UNLOADING,
    (State.UNLOADING, Event.UNLOADED): State.END,
}


def next_state(state: State, event: Event) -> State:
    """Raises KeyError for an event that can't happen in this state: a bug, not a fault."""
    return TRANSITIONS[state, event]
