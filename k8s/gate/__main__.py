"""python -m k8s.gate: waits until a run can be merged; the merge Job's init container.

`python -m k8s.gate report`, which `helm test` runs, checks the finished result instead, or says how far the run is.
"""

from __future__ import annotations

import sys

from common.errors import SettingsError
from common.logs import configure_logs
from common.process import program
from common.settings import read_settings
from common.store import open_store
from k8s.gate.gate import Gate
from k8s.gate.settings import GateSettings
from k8s.gate.watch import WorkerWatch


def main() -> program.Finished:
    settings = read_settings(GateSettings)
    configure_logs(settings.log_level)
    store = open_store(settings.run_uri)
    watch = WorkerWatch(settings)
    match sys.argv[1:]:
        case []:
            return program.Finished(Gate(settings, store, watch).wait())
        case ["report"]:
            # A gate waits for days: it need not hold HDF5 and NumPy in its memory.
            from k8s.gate.report import report  # noqa: PLC0415

            return program.Finished(report(store, settings, watch))
        case other:
            raise SettingsError(f"python -m k8s.gate takes report or nothing, not {' '.join(other)}")


if __name__ == "__main__":
    program.run(main)
