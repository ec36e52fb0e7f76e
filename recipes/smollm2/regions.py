"""Stage `regions`: the feature map, laid out by what readers called the features.

Directions that lie close together rarely share a subject in this SAE: regions of the map of directions had no name that a
reader would give. So a feature's place is that of its label, by the model's own input embeddings; regions are clusters of the
subjects, to which words are added, and `regions.tsv` has the names that a reader gave them.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer

from recipes.smollm2.bundle import read_labels
from recipes.smollm2.files import finish
from steering.catalogue.bundle import Bundle
from steering.interpret.feature_map import About, Cluster, FeatureMap, k_means, layout
from steering.interpret.label_embeddings import LabelEmbeddings
from steering.model.input_embeddings import read_input_embeddings

REGIONS = 45
"""Clusters of subjects."""
NAMES = Path(__file__).with_name("regions.tsv")
SUBJECTS, WORDS = "TSD", "W"
"""Sorts of labels that make regions, and that are put into the nearest."""
NEAR = 0.25
"""Least cosine of a word to the middle of a region that it is put into."""
REST = ("single words", "grammar and position", "no single meaning")
"""Regions of what has no subject."""


def make_regions(out: Path) -> None:
    """Write `map.f32` and `map.json` of `out/bundle`."""
    bundle = Bundle.open(out / "bundle")
    vectors, member = label_vectors(bundle), regions_of(bundle)
    drawn = draw(vectors, member, read_names())
    drawn.save(bundle.files)
    finish(out, "regions", {c.name: c.size for c in drawn.about.clusters})


def label_vectors(bundle: Bundle) -> Float[Tensor, "rows d_model"]:
    """The unit vector of each feature's label; 0 without a label."""
    tokenizer = AutoTokenizer.from_pretrained(bundle.model_path)
    known = LabelEmbeddings(
        read_input_embeddings(bundle.model_path),
        lambda word: tokenizer(word, add_special_tokens=False)["input_ids"],
        [f.label for f in bundle.features],
    )
    return known.vectors


def regions_of(bundle: Bundle) -> Int[Tensor, " rows"]:
    """Each row's region: a cluster of subjects, or one of `REST` after them."""
    vectors, labels = label_vectors(bundle), read_labels()
    sorts = [labels[f.index].sort if f.index in labels else "M" for f in bundle.features]
    subjects = torch.tensor([i for i, s in enumerate(sorts) if s in SUBJECTS])
    found = k_means(vectors[subjects], REGIONS)
    middles = normalize(torch.zeros(REGIONS, vectors.shape[1]).index_add_(0, found, vectors[subjects]), dim=1)
    nearest = vectors @ middles.T
    member = torch.full((len(sorts),), REGIONS + 2)
    member[subjects] = found
    for i, sort in enumerate(sorts):
        if sort in WORDS:
            member[i] = int(nearest[i].argmax()) if nearest[i].max() >= NEAR else REGIONS
        elif sort == "G":
            member[i] = REGIONS + 1
    return member


def draw(vectors: Tensor, member: Tensor, names: dict[int, str]) -> FeatureMap:
    """Lay the labels out and name the regions; one with the name of another is joined with it."""
    every = [*(names[i] for i in range(REGIONS)), *REST]
    kept = list(dict.fromkeys(every))
    member = torch.tensor([kept.index(name) for name in every])[member]
    points, clusters = _places(vectors, member == kept.index(REST[-1])), []
    for i, name in enumerate(kept):
        x, y = points[member == i].median(0).values.tolist()
        clusters.append(Cluster(name=name, x=round(x, 4), y=round(y, 4), size=int((member == i).sum())))
    return FeatureMap(points, About(method="labels", clusters=tuple(clusters), member=tuple(member.tolist())))


def _places(vectors: Float[Tensor, "rows d_model"], nameless: Bool[Tensor, " rows"]) -> Float[Tensor, "rows 2"]:
    """Lay out what has a name; the rest is a square in the corner, where it pulls nothing apart."""
    points = torch.zeros(len(vectors), 2)
    points[~nameless] = layout(vectors[~nameless], "umap")
    low, high = points[~nameless].quantile(torch.tensor([0.002, 0.998]), dim=0)
    points = ((points - low) / (high - low) * 2 - 1).clamp(-1, 1)  # a few far points must not squeeze the others
    n, side = int(nameless.sum()), math.isqrt(int(nameless.sum())) + 1
    grid = torch.stack([torch.arange(n) % side, torch.arange(n) // side], dim=1) / side
    points[nameless] = torch.tensor([0.85, -1.0]) + 0.15 * grid
    return points.contiguous()


def read_names() -> dict[int, str]:
    """The reader's name of each region."""
    rows = (line.split("\t") for line in NAMES.read_text(encoding="utf-8").splitlines()[1:])
    return {int(number): name for number, name in rows}
