"""The index of a run: what a search backend finds in it, when it is made anew, and when it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from common.errors import ResourceExhausted, RunUnfinished, SettingsError
from common.process.limits import Memory
from common.run.keys import INDEX_KEY, RESULT_KEY, SUMMARY_KEY
from common.run.summary import read_summary, write_summary
from common.store import open_store
from common.store.contract import ObjectExists
from merger.merge import merge
from results.index.job import AlreadyBuilt, Built, IndexRefused, NothingToIndex, check_memory
from results.index.publisher import Publisher
from results.result import open_result
from tests.merger.runs import make_chunk, put_chunk, put_run, settings_for
from tests.results.index.indexed import SearchBackend, described, downloaded, index, settings_of
from tests.results.runs import merge_run

if TYPE_CHECKING:
    from pathlib import Path

    from common.store.contract import Store


def top_up(store: Store, index: int, rows: int, *, chunk_count: int) -> None:
    """Replace a chunk of a finished run by one with other rows, and merge."""
    put_chunk(store, make_chunk(index, rows, chunk_count=chunk_count))
    merge(store, settings_for(store, chunk_count))


def test_an_unchanged_search_backend_loads_the_index_and_answers_from_it(store: Store, tmp_path: Path) -> None:
    merge_run(store, (300, 200))
    assert isinstance(index(store), Built)
    folder = downloaded(store, tmp_path / "backend")
    backend = SearchBackend(folder / RESULT_KEY)
    assert backend.loaded_index
    for row in (0, 299, 300, 499):
        (url, score), *others = backend.search(backend.embeddings[row], 10)
        assert url == backend.urls[row]
        assert score == pytest.approx(1, abs=1e-5)
        scores = backend.embeddings @ backend.embeddings[row]
        expected = [backend.urls[each] for each in np.argsort(-scores)[1:10]]
        assert len({url for url, _ in others} & set(expected)) >= 8
    labels = backend.index.get_ids_list()
    assert sorted(labels) == list(range(500))
    assert np.allclose(backend.index.get_items([7, 499]), backend.embeddings[[7, 499]], atol=1e-6)


def test_the_summary_says_how_good_the_index_is_and_which_result_it_belongs_to(store: Store) -> None:
    merge_run(store, (300, 200))
    before = read_summary(store)
    index(store, index_m=8, index_ef_construction=50, index_recall_queries=40)
    summary = read_summary(store)
    assert before is not None
    assert summary is not None
    assert summary.model_copy(update={"index": None}) == before
    assert summary.has_current_index
    found, stat = summary.index, store.stat(INDEX_KEY)
    assert found is not None
    assert stat is not None
    assert (found.rows, found.bytes, found.m, found.ef_construction) == (500, stat.size, 8, 50)
    assert found.recall_queries == 40
    assert 0.9 <= found.recall_at_10 <= 1
    assert found.recall_at_10_unset_ef is not None
    assert found.recall_at_10_unset_ef <= found.recall_at_10


def test_a_run_that_has_its_index_is_left_as_it_is(store: Store) -> None:
    merge_run(store, (30, 20))
    index(store)
    before = [store.stat(key) for key in (INDEX_KEY, SUMMARY_KEY)]
    assert isinstance(index(store), AlreadyBuilt)
    assert [store.stat(key) for key in (INDEX_KEY, SUMMARY_KEY)] == before


def test_another_m_makes_another_index(store: Store) -> None:
    merge_run(store, (30, 20))
    index(store)
    assert isinstance(index(store, index_m=8), Built)
    assert described(store).m == 8  # type: ignore[union-attr]


def test_an_index_that_is_gone_or_that_no_summary_knows_is_made_anew(store: Store) -> None:
    merge_run(store, (30, 20))
    index(store)
    store.delete([INDEX_KEY])
    assert isinstance(index(store), Built)
    store.put_bytes(INDEX_KEY, b"of another program")
    assert isinstance(index(store), Built)
    summary, stat = read_summary(store), store.stat(SUMMARY_KEY)
    assert summary is not None
    write_summary(store, summary.model_copy(update={"index": None}), replacing=stat)
    assert isinstance(index(store), Built)


def test_a_merge_deletes_the_index_of_the_earlier_result_and_the_next_index_has_all_rows(
    store: Store, tmp_path: Path
) -> None:
    put_run(store, (30, 20), failed=2)
    merge(store, settings_for(store, 2))
    index(store)
    top_up(store, 1, 22, chunk_count=2)
    assert store.stat(INDEX_KEY) is None
    assert described(store) is None
    assert isinstance(index(store), Built)
    assert described(store).rows == 52  # type: ignore[union-attr]
    backend = SearchBackend(downloaded(store, tmp_path / "backend") / RESULT_KEY)
    assert backend.search(backend.embeddings[51], 1)[0][0] == backend.urls[51]


def test_a_stale_index_of_a_program_that_does_not_delete_it_is_noticed_and_made_anew(store: Store) -> None:
    put_run(store, (30, 20), failed=2)
    merge(store, settings_for(store, 2))
    index(store)
    stale, data = described(store), store.read(INDEX_KEY)
    top_up(store, 1, 22, chunk_count=2)
    summary, stat = read_summary(store), store.stat(SUMMARY_KEY)
    assert summary is not None
    store.put_bytes(INDEX_KEY, data)
    write_summary(store, summary.model_copy(update={"index": stale}), replacing=stat)
    assert isinstance(index(store), Built)
    assert described(store).rows == 52  # type: ignore[union-attr]


def test_an_index_that_finds_too_few_rows_is_refused_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    merge_run(store, (1500,), dimensions=64)
    before = sorted(found.key for found in store.list(""))
    with pytest.raises(IndexRefused, match=r"finds 0\.\d+ of the 10 .* raise EMBEDDER_INDEX_EF_CONSTRUCTION \(10\)"):
        index(store, index_m=4, index_ef_construction=10, index_min_recall=1)
    assert IndexRefused.exit_code == 65
    assert sorted(found.key for found in store.list("")) == before
    assert not list(tmp_path.rglob(".*.part"))
    assert described(store) is None


def test_a_run_that_is_not_finished_has_no_index(store: Store) -> None:
    put_run(store, (3,))
    with pytest.raises(RunUnfinished, match="has no finished result"):
        index(store)


def test_a_result_without_rows_has_nothing_to_index(store: Store) -> None:
    put_run(store, (0, 0), failed=3)
    merge(store, settings_for(store, 2))
    assert isinstance(index(store), NothingToIndex)
    assert store.stat(INDEX_KEY) is None


@pytest.mark.parametrize("rows", [1, 2, 11])
def test_a_result_of_few_rows_has_an_index(store: Store, tmp_path: Path, rows: int) -> None:
    merge_run(store, (rows,))
    assert isinstance(index(store), Built)
    backend = SearchBackend(downloaded(store, tmp_path / "backend") / RESULT_KEY)
    assert len(backend.search(backend.embeddings[0], rows)) == rows


def test_equal_images_do_not_count_as_missed(store: Store) -> None:
    chunk = make_chunk(0, 400, chunk_count=1)
    vectors = chunk.embeddings[:]
    vectors[100:400] = vectors[99]
    put_chunk(store, replace(chunk, embeddings=vectors))
    merge(store, settings_for(store, 1))
    assert isinstance(index(store), Built)
    assert described(store).recall_at_10 > 0.95  # type: ignore[union-attr]


def test_no_index_is_published_beside_a_result_that_a_merge_has_replaced(store: Store, tmp_path: Path) -> None:
    put_run(store, (30, 20), failed=2)
    merge(store, settings_for(store, 2))
    index(store)
    path = downloaded(store, tmp_path / "old") / INDEX_KEY
    old = described(store)
    assert old is not None
    publisher = Publisher(store, open_result(store), replacing=store.stat(INDEX_KEY), summary=store.stat(SUMMARY_KEY))
    top_up(store, 1, 22, chunk_count=2)
    with pytest.raises(ObjectExists, match=r"Images_Embedded\.h5"):
        publisher.publish(path, old)
    assert store.stat(INDEX_KEY) is None


def test_an_index_whose_summary_cannot_be_written_is_withdrawn(store: Store, tmp_path: Path) -> None:
    merge_run(store, (30, 20))
    index(store)
    path = downloaded(store, tmp_path / "old") / INDEX_KEY
    summary = read_summary(store)
    assert summary is not None
    assert summary.index is not None
    store.delete([INDEX_KEY])
    publisher = Publisher(store, open_result(store), replacing=None, summary=store.stat(SUMMARY_KEY))
    changed = summary.model_copy(update={"seconds": 77.0})
    write_summary(store, changed, replacing=store.stat(SUMMARY_KEY))
    with pytest.raises(ObjectExists, match=r"summary\.json"):
        publisher.publish(path, summary.index)
    assert store.stat(INDEX_KEY) is None
    assert read_summary(store) == changed


def test_too_little_memory_is_said_before_the_build_begins(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    merge_run(store, (30, 20))
    result, settings = open_result(store), settings_of(store)
    check_memory(result, settings, threads=2, memory=Memory(1 << 30, 1 << 30))
    check_memory(result, settings, threads=2, memory=None)
    with pytest.raises(SettingsError, match=r"needs 0\.2 GB of memory, and this machine or container has 67 MB; raise"):
        check_memory(result, settings, threads=2, memory=Memory(1 << 26, 1 << 26))
    with pytest.raises(ResourceExhausted, match=r"needs 0\.2 GB of memory, and 67 MB of 1\.1 GB are free; end other"):
        check_memory(result, settings, threads=2, memory=Memory(1 << 26, 1 << 30))


def test_a_folder_for_the_index_that_is_absent_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    merge_run(store, (3,))
    with pytest.raises(SettingsError, match=r"EMBEDDER_INDEX_FOLDER is .*/absent, which is not a folder"):
        index(store, index_folder=str(tmp_path / "absent"))


def test_the_index_can_be_made_in_another_folder(store: Store, tmp_path: Path) -> None:
    merge_run(store, (30, 20))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert isinstance(index(store, index_folder=str(scratch)), Built)
    assert list(scratch.iterdir()) == []
