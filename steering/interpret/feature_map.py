"""Feature map: all features in the plane by the similarity of their directions, in named clusters.

Coordinates are UMAP's with cosine distance where `umap-learn` is installed (the extra `map`), else the first two
principal components. Clusters are k-means on the directions themselves, with farthest-point initialisation, so both are
deterministic. On disk: `map.f32`, pairs of x and y for each row of the SAE, and `map.json`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import Feature
from steering.errors import BadBundle, SteeringError
from steering.files import write_atomic

POINTS, ABOUT = "map.f32", "map.json"
ROUNDS = 25
MOST_CLUSTERS = 48
Method = Literal["umap", "pca"]
"""How rows are laid out."""


class Cluster(BaseModel):
    """Features near each other."""

    model_config = ConfigDict(frozen=True)

    name: str
    x: float
    y: float
    size: int


class About(BaseModel):
    """Contents of `map.json`."""

    model_config = ConfigDict(frozen=True)

    method: Method | Literal["labels"]
    """How directions were laid out; `labels` for a map that a bundle brings, laid out by what the features are called."""
    clusters: tuple[Cluster, ...]
    member: tuple[int, ...]
    """Cluster of each row."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Coordinates of each row's feature."""

    points: Float[Tensor, "rows 2"]
    about: About

    @property
    def data(self) -> bytes:
        """The points as stored and served: little-endian float32, x and y alternating."""
        return self.points.numpy().astype("<f4").tobytes()

    def save(self, folder: Path) -> None:
        """Write both files, each atomically; `read` refuses two that do not match."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((POINTS, self.data), (ABOUT, self.about.model_dump_json().encode())):
            write_atomic(folder / name, data)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a folder holds a map."""
        return (folder / POINTS).exists() and (folder / ABOUT).exists()

    @staticmethod
    def read(folder: Path, rows: int) -> "FeatureMap":
        """Read a map of `rows` rows. Raises BadBundle."""
        try:
            about = About.model_validate_json((folder / ABOUT).read_bytes())
            points = torch.frombuffer(bytearray((folder / POINTS).read_bytes()), dtype=torch.float32)
        except (OSError, ValueError, ValidationError) as error:
            raise BadBundle(
                f"the map in {str(folder)!r} is damaged: {error}; make it again with `tiller map`"
            ) from error
        if len(points) != 2 * rows or len(about.member) != rows:
            raise BadBundle(f"the map in {str(folder)!r} is not of {rows} features; make it again with `tiller map`")
        return FeatureMap(points.view(rows, 2), about)


def draw_map(bundle: Bundle, method: Method | None = None) -> FeatureMap:
    """Compute a bundle's map. Raises SteeringError for `umap` if it is not installed."""
    rows = torch.nn.functional.normalize(bundle.sae.W_dec.float().cpu(), dim=1)
    chosen: Method = method or ("umap" if _has_umap() else "pca")
    points = layout(rows, chosen)
    member = k_means(rows, min(MOST_CLUSTERS, max(1, round(math.sqrt(len(rows) / 2)))))
    names = name_clusters(bundle.features, member)
    clusters = []
    for c, name in enumerate(names):
        x, y = points[member == c].mean(0).tolist()
        clusters.append(Cluster(name=name, x=round(x, 4), y=round(y, 4), size=int((member == c).sum())))
    return FeatureMap(points, About(method=chosen, clusters=tuple(clusters), member=tuple(member.tolist())))


def layout(rows: Float[Tensor, "rows d_in"], method: Method) -> Float[Tensor, "rows 2"]:
    """Return a place for each row, within −1 … 1. Raises SteeringError for `umap` if it is not installed."""
    return _by_umap(rows) if method == "umap" else principal(rows)


def principal(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows 2"]:
    """Return the first two principal components, each with its largest loading positive; scaled to −1 … 1."""
    middle = rows.double() - rows.double().mean(0)
    _, vectors = torch.linalg.eigh(middle.T @ middle)
    axes = vectors[:, -2:].flip(1)
    largest = axes.abs().argmax(0)
    axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    return _scale_to_unit(middle @ axes)


def k_means(rows: Float[Tensor, "rows d_in"], k: int) -> Int[Tensor, " rows"]:
    """Return each row's cluster, of at most `k`, by cosine; the largest cluster is number 0, none is empty."""
    centres = rows[[0]]
    nearest = rows @ centres[0]
    while len(centres) < k:  # farthest-point initialisation
        centres = torch.cat([centres, rows[[int(nearest.argmin())]]])
        nearest = torch.maximum(nearest, rows @ centres[-1])
    member = torch.full((len(rows),), -1)
    for _ in range(ROUNDS):
        found = (rows @ centres.T).argmax(1)
        if found.equal(member):
            break
        member = found
        sums = torch.zeros_like(centres).index_add_(0, member, rows)
        there = torch.bincount(member, minlength=k) > 0
        centres = torch.where(there[:, None], torch.nn.functional.normalize(sums, dim=1), centres)
    order = torch.bincount(member, minlength=k).argsort(descending=True, stable=True)
    return order.argsort()[member]


def name_clusters(features: Sequence[Feature], member: Int[Tensor, " rows"]) -> list[str]:
    """Name each cluster by the words that many of its features have and few of the others."""
    counts = [Counter[str]() for _ in range(int(member.max()) + 1)]
    for feature, c in zip(features, member.tolist(), strict=True):
        counts[c].update(_cluster_words(feature))
    total = Counter[str]()
    for count in counts:
        total.update(count)
    names = []
    for c, count in enumerate(counts):
        size = int((member == c).sum())
        # Log-ratio to the frequency among all features, weighted by count: a word of one feature is no name.
        worth = {
            w: n * math.log((n / size) / (total[w] / len(features)))
            for w, n in count.items()
            if n > 1 or size == 1 or len(features) < 100
        }
        best = sorted((w for w in worth if worth[w] > 0), key=lambda w: (-worth[w], w))[:3]
        names.append(", ".join(best) or f"cluster {c + 1}")
    return names


def _cluster_words(feature: Feature) -> set[str]:
    """Words of a feature, and those of a label that is a sentence."""
    label_words = feature.label.split() if feature.label_source not in ("auto", "contrast", "none") else []
    words = [*feature.words, *label_words, *(t for t in feature.top_logits.get("positive", []) if t[:1] == " ")]
    return {w for word in words if len(w := word.strip(" .,:;!?“”\"'").casefold()) > 2 and w.isalpha()}


def _scale_to_unit(points: Tensor) -> Float[Tensor, "rows 2"]:
    return (points / points.abs().amax().clamp(min=1e-9)).float().contiguous()


def _has_umap() -> bool:
    from importlib.util import find_spec

    return find_spec("umap") is not None


def _by_umap(rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows 2"]:
    try:
        import umap  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise SteeringError("UMAP is not installed: pip install 'tiller[map]', or choose pca") from error
    near = min(15, len(rows) - 1)
    found = umap.UMAP(n_neighbors=near, metric="cosine", random_state=0, n_jobs=1).fit_transform(rows.numpy())
    points = torch.as_tensor(found).double()
    return _scale_to_unit(points - points.mean(0))
