"""The order of the check. What is slow begins first, and everything is tried, whatever failed before."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from common.errors import EmbedderError, FingerprintMismatch, SettingsError
from common.findings import ELSEWHERE_VARIABLE, Finding, ModelFacts, RunFacts, Subject, Verdict, fault, skipped
from common.format.provenance import Provenance
from common.process.step import NotInTime, Step, result_of
from worker.check.images import ImageCheck
from worker.check.manifest_look import OpenManifest, manifest_finding, read_manifest
from worker.check.run_look import look_at_run
from worker.check.store_look import TriedStore, free_bytes, store_finding, try_store
from worker.decode.geometry import PREPROCESSING_VERSION
from worker.decoders.decoders import Decoders
from worker.decoders.settings import decoder_settings
from worker.encode.model import UNTRAINED
from worker.encode.model_loading import ModelLoading
from worker.fetch.relayed_proxies import RelayedProxies
from worker.settings import (
    PUBLIC_MIRROR_URL,
    ChunkSettings,
    DecodeSettings,
    EncodeSettings,
    FetchSettings,
    HttpSettings,
    ManifestSettings,
)
from worker.stage_times import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from concurrent.futures import Future

    from common.store.contract import Store
    from worker.check.sections import Sections
    from worker.encode.model import ModelSource

Part = TypeVar("Part")

STORE_SECONDS = 30.0
"""Time in seconds that the store has for the access check, and again for the look at the run. It is longer than the
time for which absent credentials are waited for."""

MANIFEST_SECONDS = 30.0
"""Time in seconds for the manifest's head and sample."""

IMAGES_SECONDS = 45.0
"""Time in seconds for the sample of images."""

MODEL_SECONDS = 60.0
"""Time in seconds for the model to be found and loaded, from the start of the check. A model of the hub may take
longer to arrive."""

BATCH_SECONDS = 30.0
"""Time in seconds for the measured batches."""

BUG = 1
"""The exit code of a program with a bug."""

WRONG_SETTING = "a setting is wrong"
LEFT_OUT = "left out as asked for"


class Check:
    """Tries what a worker with these settings needs. `say` is called with each finding as soon as it is known.

    Create it in the main thread, because decoders end together with the thread that has started them.
    """

    def __init__(self, sections: Sections, *, say: Callable[[Finding], object], skip: AbstractSet[Subject]) -> None:
        self._sections, self._say, self._skip = sections, say, skip
        self._began = time.monotonic()
        self._findings: list[Finding] = []
        self.bug: Exception | None = None
        """An unexpected error of the check's own code, None while there is none."""
        self._times = StageTimes(decode_threads=1)
        self._decoders: Decoders | None = None
        self._manifest: OpenManifest | None = None
        self._store: Store | None = None

    def run(self) -> list[Finding]:
        """Try everything, and return what was found."""
        if self._sections.problem:
            self._note(fault(Subject.SETTINGS, SettingsError(self._sections.problem)))
        else:
            self._note(Finding(subject=Subject.SETTINGS, verdict=Verdict.OK, message="every setting can be read"))
        if not self._skip & {Subject.IMAGES, Subject.MANIFEST}:
            self._start_decoders()
        model = self._begin_model()
        store = self._begin_store()
        manifest = self._begin_manifest()
        self._guard(Subject.STORE, lambda: self._end_store(store))
        self._guard(Subject.MANIFEST, lambda: self._end_manifest(manifest))
        self._guard(Subject.IMAGES, self._look_at_images)
        self._guard(Subject.RUN, lambda: self._look_at_run(model))
        self._guard(Subject.MODEL, lambda: self._end_model(model))
        if self._decoders is not None:
            self._decoders.close()
        return self._findings

    def _guard(self, subject: Subject, look: Callable[[], None]) -> None:
        """Call `look`. A bug in it does not stop what follows."""
        try:
            look()
        except Exception as error:  # noqa: BLE001 - raised at the end of the check
            self.bug = error
            message = f"a bug in the embedder: {type(error).__name__}: {error}"
            self._note(Finding(subject=subject, verdict=Verdict.FAULT, message=message, exit_code=BUG))

    def _note(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._say(finding)

    # The store

    def _begin_store(self) -> Step[TriedStore] | None:
        run_uri = self._run_uri()
        if Subject.STORE in self._skip or not run_uri:
            self._note(skipped(Subject.STORE, LEFT_OUT if run_uri else WRONG_SETTING))
            return None

        return Step("store", lambda: try_store(run_uri))

    def _run_uri(self) -> str:
        """Return the run's place, also where another setting of its section is wrong."""
        chunk = self._sections.get(ChunkSettings)
        return chunk.run_uri if chunk is not None else os.environ.get("EMBEDDER_RUN_URI", "")

    def _end_store(self, step: Step[TriedStore] | None) -> None:
        if step is None:
            return
        place = self._run_uri()
        try:
            tried = step.result(
                seconds=STORE_SECONDS,
                late=f"{place}: the store did not let this program write and delete an object within "
                f"{STORE_SECONDS:.0f} s; look at its address and the network",
            )
        except EmbedderError as error:
            self._note(fault(Subject.STORE, error))
            return
        self._store = tried.store
        self._note(store_finding(place, tried.abilities))

    # The manifest

    def _begin_manifest(self) -> Step[OpenManifest] | None:
        manifest, http = self._sections.get(ManifestSettings), self._sections.get(HttpSettings)
        if Subject.MANIFEST in self._skip or manifest is None or http is None:
            self._note(skipped(Subject.MANIFEST, LEFT_OUT if Subject.MANIFEST in self._skip else WRONG_SETTING))
            return None
        fetch = self._sections.get(FetchSettings)
        mirror_url = fetch.mirror_url if fetch else PUBLIC_MIRROR_URL
        run_uri = self._run_uri()
        return Step("manifest", lambda: read_manifest(manifest, http, mirror_url=mirror_url, run_uri=run_uri))

    def _end_manifest(self, step: Step[OpenManifest] | None) -> None:
        if step is None:
            return
        try:
            self._manifest = step.result(
                seconds=MANIFEST_SECONDS,
                late=f"the manifest could not be sampled within {MANIFEST_SECONDS:.0f} s; look at its address and the "
                "network, or convert a large JSON array to Parquet, CSV or JSONL",
            )
        except EmbedderError as error:
            self._note(fault(Subject.MANIFEST, error))
            return
        self._note(manifest_finding(self._manifest, max_failure_ratio=self._max_failure_ratio()))

    # The images

    def _start_decoders(self) -> None:
        http, fetch = self._sections.get(HttpSettings), self._sections.get(FetchSettings)
        decode = self._sections.get(DecodeSettings)
        # Without the certificates no decoder starts.
        if http is not None and fetch is not None and decode is not None and self._sections.can_trust:
            settings = decoder_settings(http, fetch, decode)
            self._decoders = Decoders(decode.decoder_count, settings, times=self._times)

    def _look_at_images(self) -> None:
        if self._skip & {Subject.IMAGES, Subject.MANIFEST}:
            self._note(skipped(Subject.IMAGES, LEFT_OUT))
            return
        http, fetch = self._sections.get(HttpSettings), self._sections.get(FetchSettings)
        decode = self._sections.get(DecodeSettings)
        if self._decoders is None or http is None or fetch is None or decode is None:
            self._note(skipped(Subject.IMAGES, WRONG_SETTING))
            return
        if self._manifest is None:
            self._note(skipped(Subject.IMAGES, "the manifest was not read"))
            return
        if self._manifest.sample.failures and not self._manifest.sample.rows:
            self._note(skipped(Subject.IMAGES, "no sampled row of the manifest can be used"))
            return
        try:
            images = ImageCheck(
                self._manifest.sample,
                sources=self._manifest.manifest.sources,
                folder=self._manifest.manifest.folder,
                decoders=self._decoders,
                proxies=RelayedProxies(connect_timeout_seconds=http.connect_timeout_seconds),
                fetch=fetch,
                http=http,
                inflight_bytes=decode.inflight_bytes,
                times=self._times,
            )
            step = Step("images", lambda: images.run(max_failure_ratio=self._max_failure_ratio()))
            found = step.result(
                seconds=IMAGES_SECONDS,
                late=f"the sample of images did not arrive within {IMAGES_SECONDS:.0f} s; look at the sources and the "
                "network",
            )
        except EmbedderError as error:
            found = fault(Subject.IMAGES, error)
        self._note(found)

    def _max_failure_ratio(self) -> float:
        chunk = self._sections.get(ChunkSettings)
        return float(
            ChunkSettings.model_fields["max_failure_ratio"].default if chunk is None else chunk.max_failure_ratio
        )

    # The run in the store

    def _look_at_run(self, model: ModelLoading | None) -> None:
        """Find chunks and results of the run that other settings have made, and chunks that would be too large."""
        chunk, manifest = self._sections.get(ChunkSettings), self._sections.get(ManifestSettings)
        if self._store is None or chunk is None or manifest is None or self._manifest is None:
            parts = {"store": self._store, "manifest": self._manifest, "settings": chunk}
            absent = [name for name, part in parts.items() if part is None]
            self._note(skipped(Subject.RUN, f"these were not read: {', '.join(absent)}"))
            return
        store, opened = self._store, self._manifest
        source, dtype, unknown = self._model_of_run(model)
        provenance = Provenance(
            manifest=opened.manifest.identity,
            chunk_count=chunk.chunk_count,
            model="" if source is None else source.name,
            model_revision="" if source is None else source.revision,
            weights="" if source is None else source.weights,
            dtype=dtype,
            preprocessing=PREPROCESSING_VERSION,
            rotation=manifest.rotate,
            sources=",".join(opened.manifest.sources),
        )
        step = Step(
            "run",
            lambda: look_at_run(
                store, provenance, facts=opened.facts, unknown=unknown, free_bytes=free_bytes(self._run_uri())
            ),
        )
        late = f"the run in the store could not be read within {STORE_SECONDS:.0f} s; look at the network"
        try:
            found = step.result(seconds=STORE_SECONDS, late=late)
        except EmbedderError as error:
            count = error.chunk_count if isinstance(error, FingerprintMismatch) else None
            found = fault(Subject.RUN, error, RunFacts(chunk_count=count, is_there=True) if count else None)
        self._note(found)

    def _model_of_run(self, model: ModelLoading | None) -> tuple[ModelSource | None, str, dict[str, str]]:
        """Return the model and the type of the computation, and why which fields of the provenance are unknown."""
        encode = self._sections.get(EncodeSettings)
        source: ModelSource | None = None
        dtype, unknown = "", dict[str, str]()
        with suppress(EmbedderError):  # the row of the model tells it
            source = None if model is None else self._of_model(model.source, "found")
        if source is None:
            why = "the model was not looked at" if model is None else "the model cannot be loaded"
            unknown = dict.fromkeys(("model", "model_revision", "weights"), why)
        if encode is not None and encode.dtype != "auto":
            dtype = encode.dtype
        elif os.environ.get(ELSEWHERE_VARIABLE):
            unknown["dtype"] = "auto chooses it by the device of the worker, which is another machine"
        elif model is None:
            unknown["dtype"] = "the model was not looked at"
        else:
            try:
                dtype = self._of_model(model.dtype, "prepared")
            except EmbedderError:
                unknown["dtype"] = "the device cannot be used"
        return source, dtype, unknown

    # The model

    def _begin_model(self) -> ModelLoading | None:
        encode = self._sections.get(EncodeSettings)
        if Subject.MODEL in self._skip or encode is None:
            self._note(skipped(Subject.MODEL, LEFT_OUT if Subject.MODEL in self._skip else WRONG_SETTING))
            return None
        model = ModelLoading(encode, descriptor=os.memfd_create("embedder-check"), spare_slots=0)
        model.start()
        return model

    def _of_model(self, part: Future[Part], what: str) -> Part:
        """Return a part of the model, or raise its error. Raises NotInTime where it is late."""
        return result_of(part, seconds=self._began + MODEL_SECONDS - time.monotonic(), late=_too_late(what))

    def _end_model(self, model: ModelLoading | None) -> None:
        if model is None:
            return
        try:
            source = self._of_model(model.source, "found")
            batches = self._of_model(model.batches, "prepared")
            encoder = self._of_model(model.encoder, "loaded")
            # Imported here, as it imports torch, which the model's thread has done by now.
            from worker.encode.batch_rate import measure_batch_rate  # noqa: PLC0415

            step = Step("batch", lambda: measure_batch_rate(encoder, batches.batch_size))
            rate = step.result(seconds=BATCH_SECONDS, late=_too_late("measured"))
        except NotInTime as late:
            # A worker waits longer, so this is no fault.
            self._note(Finding(subject=Subject.MODEL, verdict=Verdict.WARNING, message=str(late)))
            return
        except EmbedderError as error:
            self._note(fault(Subject.MODEL, error))
            return
        facts = ModelFacts(
            model=source.name,
            revision=source.revision,
            device=encoder.device_name,
            dtype=str(encoder.dtype).removeprefix("torch."),
            batch_size=batches.batch_size,
            images_per_second=rate.images_per_second,
            measured_batch=rate.rows,
            image_size=encoder.image_size,
            dimensions=encoder.dimensions,
        )
        message = (
            f"{facts.model} in {facts.dtype} on {facts.device}: {facts.images_per_second:,.0f} images/s in batches of "
            f"{rate.rows}, {facts.dimensions} dimensions"
        )
        if source.name == UNTRAINED:
            message += "; its weights are random, so the vectors mean nothing: name a model"
        verdict = Verdict.WARNING if source.name == UNTRAINED else Verdict.OK
        self._note(Finding(subject=Subject.MODEL, verdict=verdict, message=message, facts=facts))


def _too_late(what: str) -> str:
    return (
        f"the model was not {what} within {MODEL_SECONDS:.0f} s; weights of the hub may still be arriving, so check "
        "again, or take them from a folder"
    )
