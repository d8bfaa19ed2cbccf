"""Positions of vectors in a plane, such that similar vectors lie near each other. Pure numpy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PERPLEXITY = 30.0
"""About the number of neighbours that a vector has in the layout; van der Maaten and Hinton advise 5 to 50."""

STEPS = 500
"""Number of gradient steps."""

_EXAGGERATED_STEPS = 150
"""Number of first steps in which attraction is stronger, so that groups form before they are told apart."""

_EXAGGERATION = 12.0
_FIRST_SPREAD = 1e-4
"""Standard deviation of the first positions (Kobak and Berens 2019, "The art of using t-SNE")."""

_STEPS_SHOWN = 10
"""Number of steps from one yield to the next."""

_PLACED_BESIDE = 3
"""Number of nearest vectors in whose middle a further vector is placed."""

_BISECTIONS = 40

_BLOCK_ROWS = 64
"""Number of rows whose forces are computed at a time: 64 by 2,000 numbers stay in the processor's cache."""

_LONGEST_STEP = 5.0
"""Longest way of a row in one step, along each axis. A layout has a radius of about 40; few rows would fly apart."""

TINY = 1e-30
"""What a length of 0 is replaced with before a division. It is a float32 that is not 0."""


def principal_components(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the two principal components of the vectors, (rows, 2) float32, both within -1 and 1."""
    rows, dimensions = vectors.shape
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # ascending, (dimensions, dimensions)
    plane = np.zeros((rows, 2), np.float32)
    used = min(2, dimensions)
    plane[:, :used] = centred @ axes[:, ::-1][:, :used].astype(np.float32)
    largest: float = float(np.abs(plane).max(initial=0))
    return plane / np.float32(max(largest, TINY))


def neighbour_layout(
    vectors: NDArray[np.float32], start: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield t-SNE positions as they improve: the number of steps so far, and (rows, 2) float32.

    `vectors` have L2 norm 1, `start` is where the search for positions begins, (rows, 2). The gradient is exact, so
    time and memory grow with the square of the rows: see docs/decisions/0012-the-explore-page.md.

    Source: van der Maaten and Hinton 2008, "Visualizing Data using t-SNE"; step size of Belkina and others 2019.
    """
    rows = len(vectors)
    attraction = _affinities(vectors)  # (rows, rows), sums to 1
    positions = start * np.float32(_FIRST_SPREAD / max(float(start.std()), TINY))
    velocity, gains = np.zeros_like(positions), np.ones_like(positions)
    step_size = max(rows / _EXAGGERATION / 4, min(50.0, rows / 2))
    for step in range(1, STEPS + 1):
        is_early = step <= _EXAGGERATED_STEPS
        gradient = _gradient(positions, attraction, _EXAGGERATION if is_early else 1.0)
        # Gains as in the authors' own program: a step grows where the direction stays, and shrinks where it turns.
        gains = np.where(np.sign(gradient) != np.sign(velocity), gains + 0.2, np.maximum(gains * 0.8, 0.01))
        velocity = (0.5 if is_early else 0.8) * velocity - step_size * gains * gradient
        velocity = np.clip(velocity, -_LONGEST_STEP, _LONGEST_STEP)
        positions = positions + velocity
        positions -= positions.mean(axis=0)
        if step % _STEPS_SHOWN == 0 or step == STEPS:
            yield step, positions.astype(np.float32)


def nearest_of(further: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each further vector the numbers of the `vectors` nearest to it, (further rows, at most 3)."""
    count = min(_PLACED_BESIDE, len(vectors))
    nearest: NDArray[np.int64] = np.argpartition(-(further @ vectors.T), count - 1, axis=1)[:, :count]
    return nearest


def place_beside(nearest: NDArray[np.int64], positions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a position for each row of `nearest`, (rows, 2): in the middle of the positions that it names."""
    middle: NDArray[np.float32] = np.median(positions[nearest], axis=1)
    # Without this, vectors with the same nearest ones would lie on each other.
    spread = np.random.default_rng(0).normal(scale=0.006 * float(np.abs(positions).max()), size=middle.shape)
    return (middle + spread).astype(np.float32)


def _affinities(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how strongly each vector attracts each other one: symmetric, (rows, rows) float32, sums to 1."""
    rows = len(vectors)
    distances = np.maximum(2 - 2 * (vectors @ vectors.T), 0)
    np.fill_diagonal(distances, np.inf)
    count = min(int(3 * PERPLEXITY), rows - 1)
    nearest = np.argpartition(distances, count - 1, axis=1)[:, :count]
    weights = _weights(np.take_along_axis(distances, nearest, axis=1))
    attraction = np.zeros((rows, rows), np.float32)
    np.put_along_axis(attraction, nearest, weights, axis=1)
    symmetric: NDArray[np.float32] = (attraction + attraction.T) / np.float32(2 * rows)
    return symmetric


def _weights(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row's weights of its neighbours, which sum to 1 and have the entropy of the perplexity."""
    wanted = math.log(min(PERPLEXITY, distances.shape[1] / 3 + 1))
    relative = (distances - distances.min(axis=1, keepdims=True)).astype(np.float64)
    low, high = np.zeros(len(distances)), np.full(len(distances), 1e7)
    weights = np.empty_like(relative)
    for _ in range(_BISECTIONS):
        # The scale is searched on a logarithmic axis, since distances of models differ by powers of ten.
        sharpness = np.sqrt(np.maximum(low, 1e-3) * high)
        weights = np.exp(-relative * sharpness[:, None])
        total = weights.sum(axis=1)
        entropy = np.log(total) + sharpness * (relative * weights).sum(axis=1) / total
        is_flat = entropy > wanted
        low, high = np.where(is_flat, sharpness, low), np.where(is_flat, high, sharpness)
    shares: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _gradient(
    positions: NDArray[np.float32], attraction: NDArray[np.float32], exaggeration: float
) -> NDArray[np.float32]:
    """Return the gradient of the Kullback-Leibler divergence, (rows, 2).

    No matrix product: with two columns, the threads of a BLAS library would cost more than they save.
    """
    rows = len(positions)
    axes = [np.ascontiguousarray(positions[:, axis]) for axis in (0, 1)]
    pull, push = np.empty((rows, 2), np.float32), np.empty((rows, 2), np.float32)
    total = 0.0
    for first in range(0, rows, _BLOCK_ROWS):
        block = slice(first, min(first + _BLOCK_ROWS, rows))
        across, down = (axis[block, None] - axis for axis in axes)  # (rows of the block, rows)
        closeness = 1 / (np.square(across) + np.square(down) + 1)
        total += float(closeness.sum(dtype=np.float64))
        attracted = attraction[block] * closeness
        np.square(closeness, out=closeness)
        for axis, away in enumerate((across, down)):
            pull[block, axis] = np.einsum("ij,ij->i", attracted, away)
            push[block, axis] = np.einsum("ij,ij->i", closeness, away)
    apart = np.float32(1 / max(total - rows, TINY))  # a row is not its own neighbour
    gradient: NDArray[np.float32] = 4 * (np.float32(exaggeration) * pull - apart * push)
    return gradient
