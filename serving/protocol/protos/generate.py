"""Generates the `_pb2` modules beside the .proto files: `python -m serving.protocol.protos.generate` (needs grpcio-tools)."""

import sys
from pathlib import Path

from grpc_tools import protoc


def main() -> int:
    here = Path(__file__).resolve().parent
    root = here.parents[2]
    files = [str(path.relative_to(root)) for path in sorted(here.glob("*.proto"))]
    arguments = ["protoc", f"--proto_path={root}", f"--python_out={root}", f"--pyi_out={root}", *files]
    code: int = protoc.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
