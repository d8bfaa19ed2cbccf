"""Names: of releases, of the chart, and of everything that a person names in the values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.charts.helm import helms, template
from tests.charts.objects import containers, environment, named, of_kind, pod_spec, run_of
from tests.charts.validity import valid_objects

if TYPE_CHECKING:
    from pathlib import Path


EVERY_HELM = pytest.mark.parametrize("program", helms(), ids=lambda program: program.split("/")[-2])

EVERYTHING = (
    "chunks.count=100000",
    "rerun.chunks=0-89999",
    "topUp.enabled=true",
    "topUp.attempt=9999",
    "metrics.enabled=true",
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboard.enabled=true",
    "networkPolicy.enabled=true",
    "s3.accessKeyId=a",
    "s3.secretAccessKey=b",
)
"""Values with which the chart renders every kind of object."""

RELEASES = [
    "2024", "0", "true", "null", "no", "1e3", "0x10", "12.5", "1.0", "a", "a.b", "team.search", "v1.2.3",
    "r" * 53, "r" * 33 + "-" + "s" * 19, "r" * 34 + "-" * 6 + "s" * 3, "x" * 39 + "-b", ".".join("abcdefgh" * 3),
]  # fmt: skip
"""Names that Helm accepts and YAML, a label or a host name may not."""

ODD = ["123", "0", "1e5", "1.5", "true", "false", "no", "0x10", "007", "2026-11-28", "null", "12345678901234567890"]
"""Texts that YAML, or --set, may take for something else."""

NAMED = [
    "nameOverride",
    "kueue.queueName",
    "kueue.priorityClass",
    "run.pvc.claimName",
    "weights.pvc.claimName",
    "weights.pvc.subPath",
    "s3.existingSecret",
    "tls.caBundle.configMap",
    "metrics.podMonitor.labels.some",
    "metrics.prometheusRule.labels.some",
    "metrics.prometheusRule.alertLabels.some",
    "metrics.dashboard.labelValue",
    "metrics.dashboard.labels.some",
    "serviceAccount.annotations.some",
    "commonLabels.some",
    "commonAnnotations.some",
    "test.podLabels.some",
    "imagePullSecrets[0].name",
    "topUp.runtimeClassName",
    "topUp.nodeSelector.some",
    "topUp.tolerations[0].value",
    "topUp.extraEnv[0].value",
    *(
        f"{group}.{name}"
        for group in ("worker", "merge")
        for name in (
            "serviceAccount.name",
            "priorityClassName",
            "runtimeClassName",
            "schedulerName",
            "nodeSelector.some",
            "jobLabels.some",
            "jobAnnotations.some",
            "podLabels.some",
            "podAnnotations.some",
            "tolerations[0].value",
            "extraEnv[0].value",
        )
    ),
]
"""Values in which a person writes a name or a text."""

NEEDED = (
    "run.uri=/run-volume/run",
    "weights.source=pvc",
    "worker.tolerations[0].key=some",
    "merge.tolerations[0].key=some",
    "worker.extraEnv[0].name=SOME",
    "merge.extraEnv[0].name=SOME",
    "rerun.chunks=1",
    "topUp.enabled=true",
    "topUp.tolerations[0].key=some",
    "topUp.extraEnv[0].name=SOME",
    "metrics.enabled=true",
    "metrics.podMonitor.enabled=true",
    "metrics.prometheusRule.enabled=true",
    "metrics.dashboard.enabled=true",
    "networkPolicy.enabled=true",
)
"""Values without which some of NAMED are not used."""


def set_options(*assignments: str, option: str = "--set") -> list[str]:
    return [argument for assignment in assignments for argument in (option, assignment)]


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_of_any_name_is_found_by_that_name(release: str) -> None:
    assert len(release) <= 53
    objects = valid_objects(template(*set_options(*EVERYTHING), release=release))
    assert len({each["kind"] for each in objects}) == 10
    assert run_of(objects) == release
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in objects} == {release}


@EVERY_HELM
@given(
    release=st.from_regex(
        r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?){0,3}", fullmatch=True
    ).filter(lambda name: len(name) <= 53)
)
@settings(max_examples=10, deadline=None)
def test_no_release_name_renders_an_invalid_object(program: str, release: str) -> None:
    assert run_of(valid_objects(template(*set_options(*EVERYTHING), release=release, program=program))) == release


@pytest.mark.parametrize(
    ("one", "other"), [("r" * 50 + "a", "r" * 50 + "b"), ("a.b", "a-b"), ("a.b", "a.b.c"), ("a-b.c", "a.b-c")]
)
def test_releases_with_similar_names_give_different_job_names(one: str, other: str) -> None:
    names = [
        {job["metadata"]["name"] for job in of_kind(valid_objects(template(release=release)), "Job")}
        for release in (one, other)
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("assignments", "start"),
    [
        ((), "clip"),
        (("nameOverride=photos",), "clip-photos"),
        (("nameOverride=clip",), "clip"),
        (("fullnameOverride=photos",), "photos"),
        (("fullnameOverride=photos", "nameOverride=other"), "photos"),
        (("fullnameOverride=2024",), "2024"),
    ],
)
def test_the_overrides_choose_the_start_of_all_names(assignments: tuple[str, ...], start: str) -> None:
    objects = valid_objects(template(*set_options(*EVERYTHING, *assignments), release="clip"))
    assert all(each["metadata"]["name"].startswith(f"{start}-") for each in objects)
    assert run_of(objects) == start
    assert (
        environment(containers(named(objects, "Pod", f"{start}-test"))[0])["EMBEDDER_WORKER_JOB"] == f"{start}-worker"
    )
    # Helm's own label stays the release, and the name of the program that of the program.
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in objects} == {"clip"}
    assert {each["metadata"]["labels"]["app.kubernetes.io/name"] for each in objects} == {"embedder"}


@pytest.mark.parametrize("override", ["Photos", "my_run", "-", "a.b.", "ü", "p" * 70, "true", "1.50"])
@pytest.mark.parametrize("value", ["nameOverride", "fullnameOverride"])
def test_an_override_that_is_no_name_for_an_object_becomes_one(value: str, override: str) -> None:
    objects = valid_objects(template(*set_options(*EVERYTHING), "--set-string", f"{value}={override}"))
    assert named(objects, "Job", f"{run_of(objects)}-worker")


@pytest.mark.parametrize("namespace", ["123", "true", "1e3"])
def test_a_namespace_may_look_like_a_number(namespace: str) -> None:
    objects = valid_objects(template("--namespace", namespace))
    (binding,) = of_kind(objects, "RoleBinding")
    assert binding["subjects"][0]["namespace"] == namespace


def test_a_namespace_and_a_release_of_digits_do_not_make_a_number_together() -> None:
    objects = valid_objects(template(*set_options(*EVERYTHING), "--namespace", "1", release="2"))
    (rule,) = of_kind(objects, "PrometheusRule")
    assert rule["spec"]["groups"][0]["name"] == "1.2"


@pytest.mark.parametrize("text", ODD)
def test_a_name_in_the_values_stays_the_text_that_it_is(text: str) -> None:
    arguments = set_options(*(f"{path}={text}" for path in NAMED), option="--set-string")
    objects = valid_objects(template(*set_options(*NEEDED), *arguments))
    run = run_of(objects)
    worker, merge = (named(objects, "Job", f"{run}-{component}") for component in ("worker", "merge"))
    for job in (worker, merge):
        labels, spec = job["metadata"]["labels"], pod_spec(job)
        assert labels["kueue.x-k8s.io/queue-name"] == labels["kueue.x-k8s.io/priority-class"] == labels["some"] == text
        template_metadata = job["spec"]["template"]["metadata"]
        assert template_metadata["labels"]["some"] == template_metadata["annotations"]["some"] == text
        for field in ("serviceAccountName", "priorityClassName", "runtimeClassName", "schedulerName"):
            assert spec[field] == text
        assert spec["nodeSelector"] == {"kubernetes.io/os": "linux", "some": text}
        assert spec["imagePullSecrets"] == [{"name": text}]
        assert spec["tolerations"][-1] == {"key": "some", "value": text}
        assert environment(containers(job)[0])["SOME"] == text
        assert containers(job)[0]["envFrom"] == [{"secretRef": {"name": text}}]
    volumes = {volume["name"]: volume for volume in pod_spec(worker)["volumes"]}
    assert volumes["run"]["persistentVolumeClaim"]["claimName"] == text
    assert volumes["weights"]["persistentVolumeClaim"]["claimName"] == text
    assert volumes["ca"]["configMap"]["name"] == text
    assert {mount.get("subPath") for mount in containers(worker)[0]["volumeMounts"]} == {None, text}


@pytest.mark.parametrize("text", [text for text in ODD if text != "null"])
def test_a_name_that_set_makes_a_number_or_a_boolean_is_text(text: str) -> None:
    def rendered(option: str) -> str:
        return template(*set_options(*NEEDED), *set_options(*(f"{path}={text}" for path in NAMED), option=option))

    assert valid_objects(rendered("--set"))
    assert rendered("--set") == rendered("--set-string")


@pytest.mark.parametrize("text", ODD)
def test_a_name_without_quotes_in_a_values_file_renders_valid_objects(text: str, tmp_path: Path) -> None:
    lines = "\n".join(f"{name}: {text}" for name in ("nameOverride", "fullnameOverride"))
    lines += f"\ncommonLabels: {{some: {text}}}\ncommonAnnotations: {{some: {text}}}"
    lines += f"\nkueue: {{queueName: {text}, priorityClass: {text}}}\ns3: {{existingSecret: {text}}}"
    for group in ("worker", "merge"):
        lines += (
            f"\n{group}: {{serviceAccount: {{name: {text}}}, priorityClassName: {text}, schedulerName: {text}, "
            f"nodeSelector: {{some: {text}}}, podLabels: {{some: {text}}}, jobAnnotations: {{some: {text}}}}}"
        )
    file = tmp_path / "values.yaml"
    file.write_text(lines)
    assert yaml.safe_load(lines)
    assert valid_objects(template.__wrapped__(files=(file,)))


def test_a_key_of_digits_is_text_in_the_secret_and_a_tag_of_digits_in_the_image() -> None:
    objects = valid_objects(
        template(*set_options("s3.accessKeyId=123456", "s3.secretAccessKey=1234", "image.worker.tag=20261128"))
    )
    (secret,) = of_kind(objects, "Secret")
    assert secret["data"] == {"AWS_ACCESS_KEY_ID": "MTIzNDU2", "AWS_SECRET_ACCESS_KEY": "MTIzNA=="}
    assert containers(named(objects, "Job", "embedder-worker"))[0]["image"] == "embedder-gpu:20261128"
