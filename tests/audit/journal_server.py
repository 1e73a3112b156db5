"""A tiny server around a recorder, to be watched with strace: each line it gets is recorded, then answered with the record's id.

python -m tests.audit.journal_server DIRECTORY  prints its port.
"""

import asyncio
import sys
from pathlib import Path

from audit import ids
from audit.errors import LogUnavailable
from tests.audit.calls import make_call, make_recorder


async def main(directory: Path) -> None:
    recorder = make_recorder(directory)
    recorder.start(asyncio.get_running_loop())
    stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line == b"stop\n":
                stopped.set()
                break
            try:
                committed = await recorder.append(make_call(request=line))
                writer.write(f"answer {ids.text(committed.record_id)}\n".encode())
            except LogUnavailable:
                writer.write(b"503\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()
    server.close()
    await recorder.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
