"""Minimal messages of TensorFlow's formats: wire-compatible field numbers, a package of our own.

Only the fields that we read or write; unknown ones are skipped. The package is `daybook.tensorflow`, so that TensorFlow's own
messages can live in the same process. After a change run `python -m serving.protocol.protos.generate`; the generated modules are
committed, since building them needs grpcio-tools.
"""
