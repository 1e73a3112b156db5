"""`make bench`: the models, a Valkey for the Celery baseline, then throughput, the cost of audit and isolation."""

import runpy
import subprocess
import sys

from .portal import ROOT


def main() -> None:
    directory = ROOT / "var" / "bench"
    subprocess.run([sys.executable, "-m", "bench.models", str(directory / "models")], cwd=ROOT, check=True)
    modules = sys.argv[1:] or ["throughput", "audit_cost", "isolation"]
    for module in modules:
        print(f"\n== {module}")
        sys.argv = [module]
        runpy.run_module(f"bench.{module}", run_name="__main__")


if __name__ == "__main__":
    main()
