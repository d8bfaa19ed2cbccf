"""`embedder check` as a person runs it: the table, JSON, the exit code, and where the settings come from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from common.errors import SettingsError
from common.findings import ELSEWHERE_VARIABLE, Finding, ManifestFacts, Subject, Verdict
from embedder.check.settings import JobEnvironment, environment_for, rendered_jobs
from k8s.release.job import environment_of
from tests.charts.helm import CHART, template
from tests.embedder.command_line import embedder
from tests.image_server import answer, image_server, stall
from tests.k8s.cluster_double import ClusterDouble, cluster_double
from tests.k8s.release_objects import ended, merge_job, pod_of, worker_job
from tests.worker.worker_process import PHOTOS, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "programs" / "embedder_program.py"), "check"]
NO_MODEL = "/no/such/model"
EXAMPLES = CHART / "examples"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDouble]:
    with cluster_double() as double:
        monkeypatch.setenv("KUBECONFIG", str(double.write_kubeconfig(tmp_path / "kubeconfig")))
        yield double


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_manifest(tmp_path, [str(path) for path in PHOTOS])


def check(*arguments: object, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=os.environ | environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def in_json(*arguments: object, stdin: str = "", **environment: str) -> dict[str, Any]:
    done = check(*arguments, "--json", stdin=stdin, **environment)
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    found["by_subject"] = {each["subject"]: each for each in found["findings"]}
    return found


@pytest.mark.slow
def test_a_run_that_can_start_is_a_table_a_plan_and_exit_code_0(photos: Path, tmp_path: Path, quick_clip: Path) -> None:
    done = check(photos, tmp_path / "run", "--model", quick_clip, "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    for subject in ("settings", "store", "manifest", "run", "model", "images"):
        assert " ok " in rows[subject]
    assert "20 of 20 sampled images can be fetched and decoded" in done.stdout
    assert "--set chunks.count=1" in done.stdout
    assert "Nothing that was looked at would stop a worker." in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_exit_code_is_that_of_the_worst_fault_and_all_faults_are_rows(tmp_path: Path) -> None:
    with image_server() as server:
        manifest = write_manifest(tmp_path, [server.url(f"/{number}.jpg") for number in range(25)])
        done = check(
            manifest, tmp_path / "run", "--model", NO_MODEL, "--set", "allow_private_hosts=true", COLUMNS="120"
        )
    assert done.returncode == 78
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    faults = {line[0] for line in lines if line[1:2] == ["fault"]}
    assert faults == {"model", "images"}
    assert "A worker would end with exit code 78, because of model." in done.stdout
    assert all(line == line.rstrip() for line in done.stdout.splitlines())
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "not_found 20" in done.stdout


def test_json_holds_the_findings_the_plan_and_the_exit_code(photos: Path, tmp_path: Path) -> None:
    found = in_json(photos, tmp_path / "run", "--model", NO_MODEL)
    assert found["exit_code"] == 78
    assert [each["subject"] for each in found["findings"]] == [
        *("settings", "store", "manifest", "run", "model", "images", "access", "gate", "GPUs", "quota")
    ]
    assert found["by_subject"]["manifest"]["facts"]["rows"] == len(PHOTOS)
    assert found["by_subject"]["store"]["facts"]["supported"]["conditional writes"] is True
    assert found["by_subject"]["access"]["verdict"] == "not looked at"
    assert found["plan"]["chunks"] == 1
    assert "chunks.count=1" in found["plan"]["set"]


def test_without_a_manifest_the_command_says_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="no MANIFEST is given and EMBEDDER_MANIFEST_URI is not set"):
        embedder("check")


@pytest.mark.slow
def test_the_chunks_of_a_run_in_the_store_are_kept(photos: Path, tmp_path: Path, quick_clip: Path) -> None:
    here = photos, tmp_path / "run", "--model", quick_clip, "--device", "cpu"
    asked = in_json(*here, "--chunks", 4)
    assert (asked["exit_code"], asked["plan"]["chunks"]) == (0, 4)
    worker = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=os.environ
        | {
            "EMBEDDER_MANIFEST_URI": str(photos),
            "EMBEDDER_RUN_URI": str(tmp_path / "run"),
            "EMBEDDER_MODEL": str(quick_clip),
            "EMBEDDER_DEVICE": "cpu",
            "EMBEDDER_CHUNK_COUNT": "4",
            "JOB_COMPLETION_INDEX": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stdout
    unasked = in_json(*here)
    assert unasked["exit_code"] == 78
    assert "chunk_count 4" in unasked["by_subject"]["run"]["message"]
    assert (unasked["plan"]["chunks"], unasked["plan"]["chunks_by"]) == (4, "store")


def test_an_error_before_the_check_is_json_too(tmp_path: Path) -> None:
    wrong = in_json("--set", "nope=1", "--set", "batch_size")
    assert wrong["exit_code"] == 78
    assert "no setting nope" in wrong["by_subject"]["settings"]["message"]
    assert "'batch_size' has no value" in wrong["by_subject"]["settings"]["message"]
    missing = in_json(EMBEDDER_MANIFEST_URI="", EMBEDDER_RUN_URI="")
    assert "no MANIFEST" in missing["by_subject"]["settings"]["message"]
    assert "no RUN" in missing["by_subject"]["settings"]["message"]
    absent = in_json("--release", "embedder", KUBECONFIG=str(tmp_path / "absent"))
    assert (absent["exit_code"], absent["plan"]) == (78, None)
    assert "there is no kubeconfig" in absent["by_subject"]["access"]["message"]


def test_a_program_that_breaks_off_is_a_fault(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "broken.py").write_text("import sys\nsys.exit('no such library: libcuda')\n")
    (tmp_path / "main.py").write_text(
        "import sys\nfrom embedder.cli import main\nfrom embedder.local.programs import Programs\n"
        f"main(Programs(check=(sys.executable, {str(tmp_path / 'broken.py')!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), "check", str(photos), str(tmp_path / "run"), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"] == 1
    assert "no such library: libcuda" in found["findings"][0]["message"]


def test_ctrl_c_ends_the_check_and_its_processes(tmp_path: Path) -> None:
    with image_server() as server:
        manifest = write_manifest(tmp_path, [server.on("/slow.jpg", stall())])
        command = [*COMMAND, str(manifest), str(tmp_path / "run"), "--set", "allow_private_hosts=true"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            until = time.monotonic() + 30
            while not server.requests and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
    assert process.returncode == 130
    assert not (tmp_path / "run").exists()


def test_no_secret_is_printed(tmp_path: Path) -> None:
    with image_server() as server:
        user = server.origin.replace("http://", "http://someone:hunter2secret@")
        server.on("/list.txt", answer(f"{user}/1.jpg?signature=hunter3secret\n".encode()))
        done = check(
            f"{user}/list.txt?token=hunter4secret",
            tmp_path / "run",
            "--model",
            NO_MODEL,
            "--set",
            "allow_private_hosts=true",
        )
    assert done.returncode == 78
    assert "***@127.0.0.1" in done.stdout
    for secret in ("hunter2secret", "hunter3secret", "hunter4secret"):
        assert secret not in done.stdout + done.stderr


# In a cluster


def with_settings(job: dict[str, Any], **variables: str) -> dict[str, Any]:
    container = job["spec"]["template"]["spec"]["containers"][0]
    kept = [each for each in container["env"] if each["name"] not in variables]
    container["env"] = kept + [{"name": name, "value": value} for name, value in variables.items()]
    return job


def test_a_release_is_checked_with_the_settings_of_its_worker_job(
    cluster: ClusterDouble, photos: Path, tmp_path: Path
) -> None:
    job = with_settings(worker_job(4, run_uri=str(tmp_path / "no" / "run")), EMBEDDER_MANIFEST_URI=str(photos))
    job["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "store"}}]
    cluster.put("jobs", job)
    cluster.put("jobs", merge_job())
    found = in_json("--release", "embedder")
    by_subject = found["by_subject"]
    assert by_subject["manifest"]["facts"]["rows"] == len(PHOTOS)
    # The model and the run's folder are in the pod alone.
    assert {each["verdict"] for each in (by_subject["model"], by_subject["store"])} == {"not looked at"}
    assert by_subject["gate"]["message"] == "the gate (ServiceAccount embedder-merge) may read Job embedder-worker"
    assert "credentials of this machine" in found["notes"][0]
    assert found["exit_code"] == 0


def test_what_the_check_job_of_a_release_has_found_is_shown(cluster: ClusterDouble) -> None:
    facts = ManifestFacts(format="csv", bytes=9, rows=120_000, is_exact=True, columns={}, sources=("url",))
    findings = [
        Finding(subject=Subject.MANIFEST, verdict=Verdict.OK, message="120,000 rows", facts=facts),
        Finding(subject=Subject.STORE, verdict=Verdict.FAULT, message="the key is wrong", exit_code=78),
    ]
    job = cluster.put("jobs", worker_job(1, name="embedder-check-1", component="check"))
    name = cluster.put("pods", pod_of(job, None, **ended(78)))["metadata"]["name"]
    for each in findings:
        cluster.append_log(name, "worker", each.model_dump_json())
    found = in_json("--release", "embedder")
    assert found["exit_code"] == 78
    assert found["by_subject"]["store"]["message"] == "the key is wrong"
    assert (found["plan"]["chunks"], found["plan"]["suggested_chunks"]) == (1, 3)
    assert "embedder-check-1" in found["notes"][0]


def test_a_cluster_that_is_not_there_is_not_looked_at(photos: Path, tmp_path: Path) -> None:
    found = in_json(
        *(photos, tmp_path / "run", "--model", NO_MODEL, "-n", "photos"), KUBECONFIG=str(tmp_path / "absent")
    )
    assert found["by_subject"]["access"]["verdict"] == "not looked at"
    assert "there is no kubeconfig" in found["by_subject"]["access"]["message"]
    assert found["exit_code"] == 78  # of the model


def test_a_chart_is_checked_before_it_is_installed(photos: Path) -> None:
    rendered = template(
        "--set",
        f"manifest.uri={photos},run.uri=s3://bucket/run,chunks.count=7",
        "--set",
        "worker.allowPrivateHosts=true,s3.endpointUrl=http://127.0.0.1:9,worker.sources=url",
    )
    found = in_json("--rendered", "-", stdin=rendered)
    assert found["by_subject"]["manifest"]["facts"]["rows"] == len(PHOTOS)
    assert found["by_subject"]["store"]["exit_code"] in {75, 78}
    assert found["by_subject"]["model"]["message"] == "/models is a folder of the pod"


def test_the_check_of_a_job_does_not_take_this_machine_for_the_pods() -> None:
    job = with_settings(worker_job(4), EMBEDDER_DEVICE="cuda")
    taken = environment_for({"EMBEDDER_DEVICE": "cuda"}, job).variables
    assert taken == {"EMBEDDER_DEVICE": "auto", ELSEWHERE_VARIABLE: "true"}


def test_one_of_several_runs_is_chosen(tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    both.write_text("---\n".join(template("--set", f"chunks.count={n}", release=f"run-{n}") for n in (7, 9)))
    with pytest.raises(SettingsError, match="holds 2 runs; choose one with --release: run-7, run-9"):
        embedder("check", "--rendered", both)
    with pytest.raises(SettingsError, match="holds no run third; choose one with --release: run-7"):
        embedder("check", "--rendered", both, "--release", "third")
    jobs = rendered_jobs(str(both), run="run-7")
    assert jobs.merge is not None
    assert {jobs.worker["metadata"]["name"], jobs.merge["metadata"]["name"]} == {
        "run-7-worker",
        "run-7-merge",
    }


def test_the_secrets_of_a_rendered_chart_are_used_and_others_are_named(tmp_path: Path) -> None:
    def environment(*assignments: str) -> JobEnvironment:
        file = tmp_path / "rendered.yaml"
        file.write_text(template(*(part for each in assignments for part in ("--set", each))))
        jobs = rendered_jobs(str(file))
        return environment_for(environment_of(jobs.worker), jobs.worker, jobs.sources)

    keys = environment("s3.accessKeyId=ours,s3.secretAccessKey=hidden")
    assert (keys.variables["AWS_ACCESS_KEY_ID"], keys.variables["AWS_SECRET_ACCESS_KEY"]) == ("ours", "hidden")
    assert keys.notes == ()
    other = environment("s3.existingSecret=store")
    assert "AWS_ACCESS_KEY_ID" not in other.variables
    assert other.notes[0].startswith("the Secret store of the pod cannot be read from here")


def test_a_list_in_a_folder_of_the_pod_is_why_no_image_is_fetched() -> None:
    rendered = template("--set", "chunks.count=3", files=(EXAMPLES / "shared-folder.yaml",))
    found = in_json("--rendered", "-", stdin=rendered)
    assert found["by_subject"]["images"]["message"] == "the list is a file of the pod"
    assert found["exit_code"] == 0


def test_an_empty_standard_input_is_told() -> None:
    done = check("--rendered", "-")
    assert done.returncode == 78
    assert "standard input is empty; see whether helm template has failed" in done.stderr


def test_a_file_without_a_worker_job_is_refused(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("chunks: {count: 3}\n")
    with pytest.raises(SettingsError, match="holds no worker Job; give it what helm template prints"):
        embedder("check", "--rendered", tmp_path / "values.yaml")
