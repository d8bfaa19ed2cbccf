"""python -m k8s.gate: waits until a run can be merged. It is the init container of the merge Job.

`python -m k8s.gate index` waits for the finished run. It is the init container of the index Job.
`python -m k8s.gate report` checks the finished result instead, or says how far the run is. `helm test` runs it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.indexes import brief_indexes
from common.logs import configure_logs
from common.metrics_server import serve_metrics
from common.process import program
from common.settings import read_settings
from common.store import open_store
from k8s.gate.finished_run import FinishedRunGate
from k8s.gate.gate import AllChunksPresent, Gate, MergeWithout
from k8s.gate.metrics import GateMetrics
from k8s.gate.settings import GateSettings
from k8s.gate.top_up import wait_for_top_up
from k8s.gate.watch import WorkerWatch

if TYPE_CHECKING:
    from common.run.state import FinishedRun
    from common.store.contract import Store
    from k8s.gate.gate import Opening
    from k8s.gate.report import SoundResult


def main() -> program.Finished:
    settings = read_settings(GateSettings)
    configure_logs(settings.log_level)
    store = open_store(settings.run_uri)
    watch = WorkerWatch(settings)
    match sys.argv[1:]:
        case []:
            return program.Finished(describe_opening(wait(settings, store, watch)))
        case ["index"]:
            return program.Finished(describe_finished(FinishedRunGate(settings, store).wait()))
        case ["report"]:
            # A gate waits for days, and HDF5 and NumPy would stay in its memory.
            from k8s.gate.report import report  # noqa: PLC0415

            return program.Finished(describe_result(report(store, settings, watch)))
        case other:
            raise SettingsError(f"python -m k8s.gate takes `index`, `report` or no argument, not {' '.join(other)}")


def wait(settings: GateSettings, store: Store, watch: WorkerWatch) -> Opening:
    """Return once the run can be merged. Until then, serve the gate's metrics if a port is set."""
    gate = Gate(settings, store, watch)
    if settings.metrics_port:
        serve_metrics(settings.metrics_port, GateMetrics(gate, chunk_count=settings.chunk_count))
    if settings.top_up_job:
        wait_for_top_up(settings)
    return gate.wait()


def describe_opening(opening: Opening) -> str:
    match opening:
        case AllChunksPresent(count):
            return f"all {count} chunks are there"
        case MergeWithout(missing, count):
            there = f"{count - len(missing)} of {count} chunks are there"
            return f"{there}; they are merged without chunks {brief_indexes(missing)}"


def describe_finished(finished: FinishedRun) -> str:
    return f"the run is finished: {finished.summary.rows_embedded} rows can be indexed"


def describe_result(result: SoundResult) -> str:
    summary = result.summary
    missing = f", without chunks {brief_indexes(summary.missing)}" if summary.missing else ""
    return (
        f"{result.location} is sound: {summary.rows_embedded} of {summary.rows_requested} images, "
        f"{summary.rows_failed} failed{missing}"
    )


if __name__ == "__main__":
    program.run(main)
