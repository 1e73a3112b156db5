"""A Redis of one test's own, that can be killed and started again."""

import subprocess
from pathlib import Path

import redis

from config import embedded_redis


class RedisServer:
    def __init__(self, directory: Path) -> None:
        self.place = embedded_redis.prepare(directory)
        self.url = self.place.url
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        self._process = subprocess.Popen(self.place.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        embedded_redis.wait_until_ready(self.place, timeout_s=20)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)
