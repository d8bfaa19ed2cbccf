"""docs/monitoring.md names the metrics that are served, and the alerts of the chart."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from tests.charts.helm import render
from tests.charts.objects import of_kind
from tests.charts.test_monitoring import rules, scraped_gate, scraped_worker
from tests.docs.test_documents import TEXTS, code_blocks

if TYPE_CHECKING:
    from pathlib import Path

TEXT = TEXTS["docs/monitoring.md"]
BLOCKS = [yaml.safe_load(block) for block in code_blocks(TEXT, "yaml")]


def test_the_tables_name_every_metric_that_is_served_and_no_other(tmp_path: Path) -> None:
    served = scraped_worker().labels_by_name | scraped_gate(tmp_path).labels_by_name
    named = set(re.findall(r"^\| `(embedder_\w+)` \|", TEXT, re.MULTILINE))
    assert named == set(served)
    without_chunk = {name for name, labels in served.items() if "chunk" not in labels}
    assert without_chunk == {name for name in named if name.startswith("embedder_run_")} | {"embedder_worker_info"}


def test_the_table_names_every_alert_and_no_other() -> None:
    assert set(re.findall(r"^\| `(Embedder\w+)` \|", TEXT, re.MULTILINE)) == set(rules())


def test_the_values_turn_everything_on(tmp_path: Path) -> None:
    (values,) = (block for block in BLOCKS if "metrics" in block)
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    kinds = [each["kind"] for each in render(files=(tmp_path / "values.yaml",))]
    assert {kind: kinds.count(kind) for kind in ("PodMonitor", "PrometheusRule", "ConfigMap")} == {
        "PodMonitor": 2,
        "PrometheusRule": 1,
        "ConfigMap": 1,
    }


def test_the_scrape_configuration_reads_labels_that_the_pods_carry() -> None:
    (config,) = (block["scrape_configs"][0] for block in BLOCKS if "scrape_configs" in block)
    read = {label for each in config["relabel_configs"] for label in each["source_labels"]}
    prefix = "__meta_kubernetes_pod_label_"
    named = {label.removeprefix(prefix) for label in read if label.startswith(prefix)}
    for job in of_kind(render("metrics.enabled=true"), "Job"):
        labels = {re.sub(r"\W", "_", name) for name in job["spec"]["template"]["metadata"]["labels"]}
        assert named <= labels
    # Alerts group by these.
    added = {each["target_label"] for each in config["relabel_configs"] if "target_label" in each}
    assert added == {"release", "namespace", "pod", "app_kubernetes_io_component"}
