"""The labels and annotations by which the objects of a release are found and told apart."""

from __future__ import annotations

from enum import StrEnum

NAME_LABEL = "app.kubernetes.io/name"
RELEASE_LABEL = "embedder-release"
"""Tells two runs under one Helm release apart, as two aliases of the chart make them. It is a label without a domain,
because this project owns none, and none of the recommended ones: Argo CD, for example, overwrites INSTANCE_LABEL."""

INSTANCE_LABEL = "app.kubernetes.io/instance"
"""The Helm release."""

COMPONENT_LABEL = "app.kubernetes.io/component"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"

FAILURE_COUNTS = (
    "batch.kubernetes.io/job-index-failure-count",
    "batch.kubernetes.io/job-index-ignored-failure-count",
)
"""Annotations of a pod: how many earlier pods of the same index have failed."""


OWN_POD_ANNOTATION = "embedder/own-pod"
"""Annotation of a Job with the labels, annotations, node selector and tolerations that its pods have from the chart, as
JSON. A queue may add others to the Job itself."""


class Component(StrEnum):
    """The values of COMPONENT_LABEL."""

    WORKER = "worker"
    RERUN = "rerun"
    MERGE = "merge"
    CHECK = "check"
    TOPUP = "topup"
    TOPUP_MERGE = "topup-merge"
    """The merge that follows a top-up."""
    INDEX = "index"
    """The Job that builds the index of the result."""
    TOPUP_INDEX = "topup-index"
    """The index that follows a top-up's merge."""
