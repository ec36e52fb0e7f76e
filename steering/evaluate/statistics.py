"""Statistical tests over thousands of features: Fisher's exact test, permutation tests, Benjamini–Hochberg.

Documents are independent, tokens are not: every test counts or permutes documents. The Benjamini–Hochberg procedure
bounds the expected share of false discoveries.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Draw = Callable[[int], Floats]
"""Returns the given number of random permutations' signs or memberships."""

ALMOST = 1e-7
"""Relative tolerance; tables that are equally unlikely but for rounding count as equally unlikely."""
FIRST, MORE, RARE = 999, 39_000, 10
"""Permutations of every feature, and further ones for features whose statistic fewer than `RARE` of them reached."""
BLOCK = 1000


def fisher_exact(hits_a: NDArray[np.int64], n_a: int, hits_b: NDArray[np.int64], n_b: int) -> Floats:
    """Fisher's exact test, two-sided, for each pair of counts out of `n_a` and `n_b`.

    Returns the probability, given the sum of both counts, of a table that is no likelier than this one.
    """
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n_a + n_b + 1)))])  # log k!
    p = np.ones(len(hits_a))
    total = hits_a + hits_b
    for k in np.unique(total):
        x = np.arange(max(0, k - n_b), min(k, n_a) + 1)
        # C(n_a, x) · C(n_b, k − x), without factors that are constant in x
        ways = -(log[x] + log[n_a - x] + log[k - x] + log[n_b - k + x])
        weight = np.exp(ways - ways.max())
        weight /= weight.sum()
        tail = np.array([weight[weight <= w * (1 + ALMOST)].sum() for w in weight])
        some = total == k
        p[some] = tail[hits_a[some] - x[0]]
    return np.minimum(p, 1.0)


def permutation_test(a: Floats, b: Floats, *, seed: int = 0) -> Floats:
    """Permutation test of the difference of two sets' means, `[documents, features]` each, two-sided.

    The assignment of documents to sets is permuted.
    """
    both, n, g = np.concatenate([a, b]), len(a), np.random.default_rng(seed)
    both = both - both.mean(0)

    def draw(shuffles: int) -> Floats:
        mine = np.argsort(g.random((shuffles, len(both))), axis=1) < n
        return mine.astype(np.float64)

    return _share_of_permutations(both, np.arange(len(both)) < n, draw)


def paired_permutation_test(differences: Floats, *, seed: int = 0) -> Floats:
    """Permutation test of the mean of paired differences, `[documents, features]`, two-sided: signs are permuted."""
    g = np.random.default_rng(seed)

    def draw(shuffles: int) -> Floats:
        return (1 - 2 * g.integers(0, 2, (shuffles, len(differences)))).astype(np.float64)

    return _share_of_permutations(differences, np.ones(len(differences)), draw)


def benjamini_hochberg(p: Floats) -> Floats:
    """Return the q-value of each p: the least false-discovery rate at which it is a discovery."""
    if not len(p):
        return p
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def student_tail(t: float, df: int) -> float:
    """Return P(T ≥ t) of Student's distribution, by Simpson's rule over the angle θ with T = √df · tan θ."""
    theta = np.linspace(math.atan(t / math.sqrt(df)), math.pi / 2, 2001)
    density = np.clip(np.cos(theta), 0, None) ** (df - 1)
    weights = np.where(np.arange(len(theta)) % 2 == 1, 4.0, 2.0)
    weights[[0, -1]] = 1.0
    area = float(weights @ density) * (theta[1] - theta[0]) / 3
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    return min(1.0, max(0.0, area * scale))


def log_odds(hits: NDArray[np.int64], n: int) -> Floats:
    """Return log-odds with Jeffreys' prior: half a count is added to each side."""
    return np.asarray(np.log((hits + 0.5) / (n - hits + 0.5)), dtype=np.float64)


def _share_of_permutations(values: Floats, observed: NDArray, draw: Draw) -> Floats:
    """Return the share of permutations whose sum is at least as far from 0 as the observed one; more of them for small
    p.
    """
    far = np.abs(observed.astype(np.float64) @ values)
    far = far - ALMOST * (far + 1e-12)
    reached = (np.abs(draw(FIRST) @ values) >= far).sum(0)
    tried = np.full(values.shape[1], FIRST)
    rare = np.flatnonzero(reached < RARE)
    if len(rare):
        some = np.ascontiguousarray(values[:, rare])
        for _ in range(MORE // BLOCK):
            reached[rare] += (np.abs(draw(BLOCK) @ some) >= far[rare]).sum(0)
        tried[rare] += MORE
    return (1 + reached) / (1 + tried)
