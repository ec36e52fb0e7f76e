"""Parts of the map benchmark: a valid bundle, with a map that has a point for each feature."""

from bench.map_page import write_bundle
from steering.catalogue.bundle import Bundle
from steering.interpret.feature_map import FeatureMap


def test_the_bundle_has_named_features_and_a_map_of_them(tmp_path):
    bundle = Bundle.open(write_bundle(tmp_path, features=300))
    found = FeatureMap.read(bundle.files, 300)
    assert (len(bundle.features), len(found.points), found.about.method) == (300, 300, "pca")
    assert len({f.label for f in bundle.features}) > 250
    assert sum(c.size for c in found.about.clusters) == 300
