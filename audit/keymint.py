"""The payload keys of one gateway start: minted when a scope is first met, durable before they are used."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .keys import KeyJournal, mint_key, wrap_key
from .payloads import SealingKey

logger = logging.getLogger(__name__)

Then = Callable[[SealingKey | OSError], None]


class KeyMint:
    """Owned by the loop. Minting and the sync of the key journal happen in a thread of its own."""

    def __init__(self, journal: KeyJournal, master_key: bytes) -> None:
        self._journal = journal  # touched by the minting thread only
        self._master_key = master_key
        self._keys: dict[str, SealingKey] = {}
        self._waiting: dict[str, list[Then]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recorder-keys")
        self._loop: asyncio.AbstractEventLoop

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def find(self, scope: str) -> SealingKey | None:
        return self._keys.get(scope)

    def request(self, scope: str, then: Then) -> None:
        """Mint the scope's key; `then` gets it once it is durable, or the error that kept it from being so."""
        if (waiting := self._waiting.get(scope)) is not None:
            waiting.append(then)
            return
        self._waiting[scope] = [then]
        self._thread.submit(self._mint, scope)

    def forget(self, scope: str) -> None:
        self._keys.pop(scope, None)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._journal.close()

    def _mint(self, scope: str) -> None:
        key = mint_key(scope, time.time_ns() // 1000)
        result: SealingKey | OSError = SealingKey.of(key)
        try:
            self._journal.append(wrap_key(self._master_key, key))
        except OSError as error:
            logger.error("key journal write failed", extra={"error": str(error)})
            result = error
        self._loop.call_soon_threadsafe(self._minted, scope, result)

    def _minted(self, scope: str, result: SealingKey | OSError) -> None:
        if isinstance(result, SealingKey):
            self._keys[scope] = result
        for then in self._waiting.pop(scope):
            then(result)
