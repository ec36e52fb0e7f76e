"""Feature map: similar directions are near, clusters are found and named, files round-trip."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from steering.catalogue.bundle import Bundle
from steering.catalogue.feature import BundleInfo, Feature
from steering.errors import BadBundle, SteeringError
from steering.interpret.feature_map import FeatureMap, draw_map, k_means, name_clusters, principal
from steering.sae import SAE

INFO = BundleInfo(name="b", model="m", hook="layers.1", revision="r1", typical_norm=8.0)
THEMES = ("river", "planet", "violin")


def families(each: int = 20, d: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Three tight families of directions, mixed up."""
    centres = torch.eye(d)[:3]
    which = torch.arange(3 * each) % 3
    rows = centres[which] + 0.15 * torch.randn(3 * each, d) / d**0.5
    return torch.nn.functional.normalize(rows, dim=1), which


@pytest.fixture
def bundle():
    rows, which = families()
    features = [
        Feature(id=f"b/{i}", index=i, words=(THEMES[w], "common"), label=f"about the {THEMES[w]}", label_source="hand")
        for i, w in enumerate(which.tolist())
    ]
    return Bundle(None, INFO, SAE.directions(rows), features), which


def test_clusters_are_the_families_that_there_are():
    rows, which = families()
    member = k_means(rows, 3)
    for family in range(3):
        assert len(set(member[which == family].tolist())) == 1
    assert k_means(rows, 3).equal(member)
    assert torch.bincount(member).diff().le(0).all()


def test_no_cluster_is_empty_even_of_rows_that_are_all_the_same():
    member = k_means(torch.nn.functional.normalize(torch.ones(10, 4), dim=1), 3)
    assert set(member.tolist()) == {0}


def test_near_directions_are_near_in_the_plane(bundle):
    drawn, which = draw_map(bundle[0], "pca"), bundle[1]
    assert drawn.points.abs().max() <= 1
    middles = torch.stack([drawn.points[which == f].mean(0) for f in range(3)])
    spread = max(float((drawn.points[which == f] - middles[f]).norm(dim=1).max()) for f in range(3))
    assert spread < 0.5 * float(torch.cdist(middles, middles)[0, 1:].min())


def test_the_plane_is_the_same_each_time_whatever_the_order():
    rows, _ = families()
    order = torch.randperm(len(rows))
    torch.testing.assert_close(principal(rows)[order], principal(rows[order]), atol=1e-4, rtol=1e-4)


def test_clusters_are_named_by_what_their_features_have_and_others_have_not(bundle):
    names = name_clusters(bundle[0].features, bundle[1])
    assert [name.split(",")[0] for name in names] == list(THEMES)
    assert not any("common" in name for name in names)


def test_a_map_comes_back_as_it_was(bundle, tmp_path):
    drawn = draw_map(bundle[0], "pca")
    assert not FeatureMap.exists(tmp_path)
    drawn.save(tmp_path)
    again = FeatureMap.read(tmp_path, 60)
    assert again.points.equal(drawn.points)
    assert again.about == drawn.about
    assert (tmp_path / "map.f32").stat().st_size == 8 * 60
    assert {p.name for p in tmp_path.iterdir()} == {"map.f32", "map.json"}


@pytest.mark.parametrize("file", ["map.f32", "map.json"])
def test_a_map_that_is_damaged_or_of_another_sae_is_refused(bundle, tmp_path, file):
    draw_map(bundle[0], "pca").save(tmp_path)
    with pytest.raises(BadBundle, match="not of 61 features"):
        FeatureMap.read(tmp_path, 61)
    (tmp_path / file).write_bytes(b"{}x")
    with pytest.raises(BadBundle, match="tiller map"):
        FeatureMap.read(tmp_path, 60)


@pytest.mark.filterwarnings("ignore")  # of umap, about what it can do with TensorFlow
def test_umap_is_asked_for_by_name_only_where_it_is_installed(bundle):
    if find_spec("umap") is None:
        with pytest.raises(SteeringError, match=r"tiller\[map\]"):
            draw_map(bundle[0], "umap")
    else:
        assert draw_map(bundle[0], "umap").about.method == "umap"


def test_a_single_feature_has_a_map(bundle):
    one = replace(bundle[0], sae=bundle[0].sae.only(torch.tensor([0])), features=bundle[0].features[:1])
    drawn = draw_map(one, "pca")
    assert drawn.points.shape == (1, 2)
    assert drawn.points.isfinite().all()
