"""PodMonitors, alerts and dashboard: every query names metrics that are served, and means what its text says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
from PIL import Image

from common.format.reasons import Reason
from common.logs import parse_line
from common.run.keys import chunk_key
from common.store import open_store
from tests.charts.helm import CHART, render
from tests.charts.objects import Object, containers, environment, named, of_kind
from tests.charts.promql import NAME, Moment, Series, Vector, grouping_labels, selectors
from tests.image_server import answer, held, image_server
from tests.scrape import Scrape, free_port, scrape
from tests.worker.images import encoded
from tests.worker.pipelines import run_pipeline
from tests.worker.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.pipeline import Pipeline

EVERYTHING = tuple(
    f"metrics.{name}"
    for name in ("enabled=true", "podMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true")
)

PROMETHEUS_OWN = {"up"}
"""Metrics that Prometheus makes of every scrape."""

SCRAPE_SECONDS = 900.0
"""Time between the two scrapes of a moment. It is the range of the alerts' rates."""


@dataclass(frozen=True)
class Served:
    """What a real worker and a real gate serve."""

    worker: Scrape
    """A worker at work: images, a failure, and images that are held up."""
    gate: Scrape

    @property
    def labels_by_name(self) -> dict[str, set[str]]:
        return self.worker.labels_by_name | self.gate.labels_by_name

    @property
    def label_values(self) -> set[tuple[str, str]]:
        return {label for each in (self.worker, self.gate) for _, labels in each.values for label in labels}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(scraped_worker(), scraped_gate(tmp_path_factory.mktemp("gate")))


def scraped_worker() -> Scrape:
    port, release = free_port(), threading.Event()
    picture = answer(encoded(Image.new("RGB", (64, 48)), "PNG"))
    scrapes: list[Scrape] = []

    def watch(_: Pipeline) -> None:
        wait_until(lambda: scrape(port)("embedder_batches_total", chunk="0") == 1)
        wait_until(lambda: "embedder_failures_total" in scrape(port).labels_by_name)
        scrapes.append(scrape(port))
        release.set()

    with image_server() as server:
        urls = [
            server.url("/none.png"),
            *(server.on(f"/{number}.png", picture) for number in range(4)),
            server.on("/late.png", held(release, then=picture)),
        ]
        # Every site with a rate has metrics of its own.
        run_pipeline(urls, metrics_port=port, while_running=watch, max_rate_per_site=500)
    return scrapes[0]


def scraped_gate(folder: Path) -> Scrape:
    store, port = open_store(str(folder)), free_port()
    store.put_bytes(chunk_key(0), b"a chunk")
    variables = {"run_uri": store.uri, "chunk_count": 4, "metrics_port": port}
    # No cluster is named, so the gate watches the store alone.
    settings = {f"EMBEDDER_{name}".upper(): str(value) for name, value in variables.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "k8s.gate"], env=os.environ | settings, stderr=subprocess.PIPE, text=True
    ) as gate:
        assert gate.stderr is not None
        for text in gate.stderr:
            line = parse_line(text)
            if line is not None and line.event == "waiting":
                break
        found = scrape(port)
        gate.kill()
    return found


def rules(*assignments: str, release: str = "embedder") -> dict[str, Object]:
    """Return the alerts by their names."""
    (rule,) = of_kind(render(*EVERYTHING, *assignments, release=release), "PrometheusRule")
    (group,) = rule["spec"]["groups"]
    return {alert["alert"]: alert for alert in group["rules"]}


def dashboard(*assignments: str, release: str = "embedder") -> Object:
    (found,) = of_kind(render(*EVERYTHING, *assignments, release=release), "ConfigMap")
    (text,) = found["data"].values()
    content: Object = json.loads(text)
    return content


def panels() -> list[Object]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_queries() -> list[tuple[str, str]]:
    """Return each panel's title with each of its queries, as Grafana sends them for the release."""
    variables = {"$namespace": "default", "$release": "embedder", "$__rate_interval": "2m"}
    queries: list[tuple[str, str]] = []
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in variables.items():
                query = query.replace(name, value)
            queries.append((panel["title"], query))
    return queries


QUERIES = [(name, alert["expr"]) for name, alert in rules().items()] + panel_queries()
EVERY_QUERY = pytest.mark.parametrize(("where", "query"), QUERIES, ids=[f"{n}-{q[0]}" for n, q in enumerate(QUERIES)])


def target_labels() -> dict[str, dict[str, str]]:
    """Return the labels that Prometheus adds to the metrics of the worker's and the gate's pod, by component."""
    found: dict[str, dict[str, str]] = {}
    objects = render(*EVERYTHING)
    for monitor in of_kind(objects, "PodMonitor"):
        component = monitor["metadata"]["labels"]["app.kubernetes.io/component"]
        pod = named(objects, "Job", monitor["metadata"]["name"])["spec"]["template"]["metadata"]["labels"]
        pod |= {"batch.kubernetes.io/job-name": monitor["metadata"]["name"]}  # Kubernetes adds it
        labels = {"namespace": "default", "pod": f"embedder-{component}-0", "job": "default/embedder"}
        for name in monitor["spec"]["podTargetLabels"]:
            if name in pod:
                labels[re.sub(r"\W", "_", name)] = pod[name]
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        labels |= {
            each["targetLabel"]: each["replacement"] for each in endpoint["relabelings"] if "replacement" in each
        }
        found[component] = labels
    return found


@EVERY_QUERY
def test_every_query_names_metrics_and_labels_that_are_served(served: Served, where: str, query: str) -> None:
    from_targets = {name for labels in target_labels().values() for name in labels}
    own_labels = {label for labels in served.labels_by_name.values() for label in labels}
    found = selectors(query)
    assert found, where
    for selector in found:
        assert selector.name in served.labels_by_name.keys() | PROMETHEUS_OWN, where
        for matcher in selector.matchers.matchers:
            if matcher.name in own_labels:
                assert matcher.name in served.labels_by_name[str(selector.name)], where
                known = served.label_values | {("reason", str(reason)) for reason in Reason}
                assert (matcher.name, matcher.value) in known, where
            else:
                assert matcher.name in from_targets, where
        selected = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
        assert (selected["namespace"], selected["release"]) == ("default", "embedder"), where
    assert grouping_labels(query) <= from_targets | own_labels, where


def series(scraped: Scrape, component: str, **overridden: str) -> Vector:
    labels = target_labels()[component] | overridden
    return [
        Series({NAME: name, **dict(own), **labels}, value)
        for (name, own), value in scraped.values.items()
    ]  # fmt: skip


def with_values(vector: Vector, values: dict[str, float], **labels: str) -> Vector:
    """Return `vector` with other values for the metrics that are named, of the series with these labels."""
    return [
        each._replace(value=values[each.labels[NAME]])
        if each.labels[NAME] in values and labels.items() <= each.labels.items()
        else each
        for each in vector
    ]


def moment(*vectors: Vector, seconds: float | None = None) -> Moment:
    """Return a moment at which the counters have just been reset to the values in `vectors`."""
    now = [each for vector in vectors for each in vector]
    before = [each._replace(value=0) for each in now]
    return Moment(now, seconds or time.time(), before, SCRAPE_SECONDS)


def fired(name: str, at: Moment, *assignments: str) -> Vector:
    found = at.evaluate(rules(*assignments)[name]["expr"])
    assert isinstance(found, list)
    return found


def test_every_panel_shows_something_of_a_run(served: Served) -> None:
    at = moment(series(served.worker, "worker"), series(served.gate, "merge"))
    for title, query in panel_queries():
        assert at.evaluate(query), (title, query)


def test_no_alert_fires_in_a_run_without_trouble(served: Served) -> None:
    worker = with_values(series(served.worker, "worker"), {"embedder_stage_seconds_total": 800}, state="worked")
    up = [Series({NAME: "up", **labels}, 1) for labels in target_labels().values()]
    at = moment(worker, series(served.gate, "merge"), up)
    assert {name: found for name in rules() if (found := fired(name, at))} == {}


def test_a_chunk_without_progress_fires_after_its_time(served: Served) -> None:
    worker = series(served.worker, "worker")
    last = served.worker("embedder_last_progress_timestamp_seconds", chunk="0")
    name = "EmbedderChunkWithoutProgress"
    assert fired(name, moment(worker, seconds=last + 899)) == []
    ((labels, _),) = fired(name, moment(worker, seconds=last + 901))
    assert (labels["chunk"], labels["pod"]) == ("0", "embedder-worker-0")
    assert fired(name, moment(worker, seconds=last + 61), "metrics.prometheusRule.noProgressSeconds=60")


def test_failures_fire_near_the_limit_of_their_own_pod(served: Served) -> None:
    sizes = {"embedder_images_requested": 100.0, "embedder_failure_ratio_limit": 0.2}
    worker = with_values(series(served.worker, "worker"), {**sizes, "embedder_failures_total": 16})
    name = "EmbedderFailuresNearLimit"
    # Of another attempt at this chunk, whose failures are not this pod's.
    earlier = [each._replace(labels={**each.labels, "pod": "embedder-worker-0-earlier"}) for each in worker]
    assert fired(name, moment(worker, earlier)) == []
    more = with_values(worker, {"embedder_failures_total": 17})
    ((labels, value),) = fired(name, moment(more, earlier))
    assert (labels["chunk"], labels["pod"], value) == ("0", "embedder-worker-0", 17)
    assert fired(name, moment(worker), "metrics.prometheusRule.failureLimitPercent=10")
    # Deferred images do not count against the limit.
    deferred = [each._replace(labels={**each.labels, "reason": "deferred"}) for each in more if "reason" in each.labels]
    assert fired(name, moment(worker, deferred)) == []


def test_failed_chunks_fire_unless_a_rerun_is_at_work(served: Served) -> None:
    gate = with_values(series(served.gate, "merge"), {"embedder_run_chunks_failed": 2})
    worker, rerun = (
        series(served.worker, "worker", app_kubernetes_io_component=component) for component in ("worker", "rerun")
    )
    name = "EmbedderMergeWaitsForFailedChunks"
    assert [value for _, value in fired(name, moment(gate, worker))] == [2]
    assert fired(name, moment(gate, rerun)) == []


def test_missing_workers_fire_while_chunks_are_to_be_computed(served: Served) -> None:
    gate, worker = series(served.gate, "merge"), series(served.worker, "worker")
    name = "EmbedderNoWorker"
    assert [value for _, value in fired(name, moment(gate))] == [3]
    assert fired(name, moment(gate, worker)) == []
    # The workers of another release do not count, and chunks that only a rerun can compute do not either.
    assert fired(name, moment(gate, series(served.worker, "worker", release="other")))
    assert fired(name, moment(with_values(gate, {"embedder_run_chunks_failed": 3}))) == []


def test_gpus_that_wait_for_images_fire_for_all_workers_together(served: Served) -> None:
    def worker(pod: str, *, worked: float, waited: float) -> Vector:
        found = series(served.worker, "worker", pod=pod)
        found = with_values(found, {"embedder_stage_seconds_total": worked}, stage="encode", state="worked")
        return with_values(found, {"embedder_stage_seconds_total": waited}, stage="encode", state="waited")

    busy, idle = worker("a", worked=700, waited=200), worker("b", worked=100, waited=800)
    name = "EmbedderGpuStarved"
    assert fired(name, moment(busy)) == []
    ((_, share),) = fired(name, moment(busy, idle))
    assert share == pytest.approx(800 / 1800)
    # A top-up waits for slow sites by its nature.
    top_up = [each._replace(labels={**each.labels, "app_kubernetes_io_component": "topup"}) for each in idle]
    assert fired(name, moment(busy, top_up)) == []
    assert name not in rules("gpu.count=0")


def test_a_worker_that_does_not_answer_fires_and_a_gate_does_not() -> None:
    name = "EmbedderWorkerDoesNotAnswer"
    down = {component: [Series({NAME: "up", **labels}, 0)] for component, labels in target_labels().items()}
    assert [each.labels["pod"] for each in fired(name, moment(*down.values()))] == ["embedder-worker-0"]


def test_every_alert_says_what_to_do_with_a_command_that_names_the_release() -> None:
    for name, alert in rules(release="clip").items():
        assert set(alert["annotations"]) == {"summary", "description"}, name
        assert "release clip" in alert["annotations"]["summary"], name
        assert re.search(
            r"embedder (status|logs|rerun)\b.* --release clip -n default", alert["annotations"]["description"]
        )
        assert alert["labels"]["severity"] in {"warning", "info"}, name
        if "for" in alert:
            promql_parser.parse_duration(alert["for"])
        # Alertmanager fills in these references; any other text in braces would be a mistake.
        for reference in re.findall(r"\{\{(.*?)\}\}", " ".join(alert["annotations"].values())):
            assert re.fullmatch(r" \$(value|labels\.(chunk|pod))( \| humanize(Duration|Percentage))? ", reference), name


def test_alerts_carry_the_labels_that_are_set() -> None:
    found = rules("metrics.prometheusRule.alertLabels.team=search", "metrics.prometheusRule.alertLabels.severity=page")
    assert {tuple(sorted(alert["labels"].items())) for alert in found.values()} == {
        (("severity", "page"), ("team", "search"))
    }


def test_queries_and_commands_name_the_run_by_the_name_that_status_takes() -> None:
    objects = render(*EVERYTHING, "fullnameOverride=clip")
    for monitor in of_kind(objects, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert {"targetLabel": "release", "replacement": "clip"} in endpoint["relabelings"]
    for alert in rules("fullnameOverride=clip").values():
        assert 'release="clip"' in alert["expr"]
        assert "--release clip -n default" in alert["annotations"]["description"]
    assert {each["metadata"]["name"] for each in objects if each["kind"] in {"ConfigMap", "PrometheusRule"}} == {
        "clip-dashboard",
        "clip-alerts",
    }


def test_a_program_is_a_target_only_while_it_serves_metrics() -> None:
    objects = render(*EVERYTHING)
    gate, merger = containers(named(objects, "Job", "embedder-merge"))
    assert gate["ports"] == [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}]
    assert environment(gate)["EMBEDDER_METRICS_PORT"] == "9090"
    assert "ports" not in merger
    for name, phase in (("embedder-merge", "Pending"), ("embedder-worker", "Running")):
        (endpoint,) = named(objects, "PodMonitor", name)["spec"]["podMetricsEndpoints"]
        keep = {"sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": phase, "action": "keep"}
        assert keep in endpoint["relabelings"]


def test_a_release_whose_name_is_a_number_is_a_label_all_the_same() -> None:
    for monitor in of_kind(render(*EVERYTHING, release="1e3"), "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert endpoint["relabelings"][0] == {"targetLabel": "release", "replacement": "1e3"}


def test_every_release_has_a_dashboard_of_its_own_that_opens_at_the_release() -> None:
    first, second = dashboard(), dashboard(release="other")
    assert first["uid"] != second["uid"]
    assert (first["title"], second["title"]) == ("Embedder default/embedder", "Embedder default/other")
    shown = {each["name"]: each["current"].get("value") for each in second["templating"]["list"]}
    assert shown == {"datasource": None, "namespace": "default", "release": "other"}
    (found,) = of_kind(render(*EVERYTHING), "ConfigMap")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    # The sidecar writes the files of all ConfigMaps to one folder.
    assert list(found["data"]) == ["default-embedder.json"]


def test_the_sidecars_label_and_folder_can_be_others() -> None:
    (found,) = of_kind(
        render(
            *EVERYTHING,
            "metrics.dashboard.label=dashboards",
            "metrics.dashboard.labelValue=yes",
            "metrics.dashboard.annotations.grafana_folder=Batch",
        ),
        "ConfigMap",
    )
    assert "grafana_dashboard" not in found["metadata"]["labels"]
    assert found["metadata"]["labels"]["dashboards"] == "yes"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Batch"}


def test_the_panels_fill_the_grid_without_overlapping_and_ask_the_chosen_source() -> None:
    content = dashboard()
    taken: dict[tuple[int, int], str] = {}
    for panel in content["panels"]:
        place = panel["gridPos"]
        for cell in cells(place):
            assert cell not in taken, (panel["title"], taken.get(cell))
            assert cell[0] < 24, panel["title"]
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    for panel in panels():
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for column in range(place["x"], place["x"] + place["w"]):
        for line in range(place["y"], place["y"] + place["h"]):
            yield column, line


def test_every_variable_of_the_dashboard_is_defined_before_it_is_used(served: Served) -> None:
    content = json.loads((CHART / "dashboards" / "run.json").read_text("utf-8"))
    defined: set[str] = set()
    for variable in content["templating"]["list"]:
        text = json.dumps(variable.get("query", ""))
        assert set(re.findall(r"\$\{?(\w+)", text)) <= defined, variable["name"]
        for name in re.findall(r"embedder_\w+", text):
            assert name in served.labels_by_name, variable["name"]
        defined.add(variable["name"])
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(content["panels"])))
    assert used - {"__rate_interval"} == defined


def test_nothing_of_this_is_created_unless_asked_for() -> None:
    assert not {each["kind"] for each in render("metrics.enabled=true")} & {"PodMonitor", "PrometheusRule", "ConfigMap"}


def test_a_moment_combines_only_series_with_equal_labels() -> None:
    one: dict[str, Any] = {NAME: "a", "pod": "1"}
    vector = [Series(one, 4), Series({**one, "pod": "2"}, 6), Series({**one, NAME: "b"}, 2)]
    at = Moment(vector, 0, [], 1)
    assert at.evaluate("a / b") == [Series({"pod": "1"}, 2)]
    assert at.evaluate("sum(a)") == [Series({}, 10)]
    assert at.evaluate("a unless on (pod) b") == [vector[1]]
    assert replace(at, time=9.0).evaluate("time() - max(a)") == [Series({}, 3)]
