"""How many of the 10 nearest rows each number type of an export still finds.

    python -m benchmarks.bench_export [ROWS]

The vectors are made up, because real ones need a model's weights: `even` is Gaussian noise; `clustered` has groups of
similar images, and a few dimensions that are ten times as large as the others, as in CLIP's image vectors.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import faiss
import numpy as np
from usearch.index import Index

from results.export.encoding import Encoding, bounds_of, encoding_for
from results.export.number_type import NumberType

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DIMENSIONS, QUERIES, NEAREST = 512, 500, 10
LARGE_DIMENSIONS = 4


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    divided: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return divided


def even(rows: int, generator: np.random.Generator) -> NDArray[np.float32]:
    return unit(generator.standard_normal((rows, DIMENSIONS), dtype=np.float32))


def clustered(rows: int, generator: np.random.Generator) -> NDArray[np.float32]:
    centres = generator.standard_normal((max(1, rows // 50), DIMENSIONS), dtype=np.float32)
    vectors = centres[generator.integers(0, len(centres), rows)]
    vectors += 0.5 * generator.standard_normal((rows, DIMENSIONS), dtype=np.float32)
    vectors[:, :LARGE_DIMENSIONS] += 10
    return unit(vectors)


def nearest(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(vectors)
    found: NDArray[np.int64] = index.search(queries, NEAREST)[1]
    return found


def encoded(encoding: Encoding) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]:
    return lambda vectors, queries: nearest(encoding.decode(encoding.encode(vectors)), queries)


def faiss_int8(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    index = faiss.IndexScalarQuantizer(DIMENSIONS, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(np.stack(bounds_of([vectors], dimensions=DIMENSIONS)))
    index.add(vectors)
    found: NDArray[np.int64] = index.search(queries, NEAREST)[1]
    return found


def usearch(scalar: str) -> Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.int64]]:
    def search(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
        index = Index(ndim=DIMENSIONS, metric="cos", dtype=scalar)
        index.add(np.arange(len(vectors), dtype=np.uint64), vectors, threads=0)
        return np.asarray(index.search(queries, NEAREST).keys).astype(np.int64)

    return search


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    for make in (even, clustered):
        generator = np.random.default_rng(0)
        vectors = make(rows, generator)
        queries = unit(vectors[:QUERIES] + 0.02 * generator.standard_normal((QUERIES, DIMENSIONS), dtype=np.float32))
        exact = nearest(vectors, queries)
        bounds = bounds_of([vectors], dimensions=DIMENSIONS)
        ways = {
            "float16": encoded(encoding_for(NumberType.FLOAT16, bounds)),
            "int8, the largest number is 127": encoded(encoding_for(NumberType.INT8, bounds)),
            "int8, 1.0 is 127": encoded(Encoding(NumberType.INT8, 1 / 127)),
            "faiss int8": faiss_int8,
            "usearch float32": usearch("f32"),
            "usearch float16": usearch("f16"),
            "usearch int8": usearch("i8"),
        }
        for name, find in ways.items():
            found = find(vectors, queries)
            hits = sum(len(set(one) & set(other)) for one, other in zip(found, exact, strict=True))
            print(f"{make.__name__:10} {name:32} {hits / exact.size:.3f}", flush=True)


if __name__ == "__main__":
    main()
