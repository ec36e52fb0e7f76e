"""Files of a feature map below a bundle's revision."""

from pathlib import Path

from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.errors import BadBundle
from steering.interpret.feature_map import FeatureMap, draw_map


def map_folder(settings: Settings, bundle: Bundle) -> Path:
    """Where a server keeps the map of a revision: beside its SAE; of the shipped one, which is only read, in its data."""
    live = settings.data_dir / "revisions" / bundle.info.name
    if bundle.files.is_relative_to(live):
        return bundle.files
    return settings.data_dir / "maps" / bundle.info.name / bundle.info.revision


def load_map(settings: Settings, bundle: Bundle) -> FeatureMap:
    """The map of a revision: one that was made, else one that is drawn now."""
    for folder in dict.fromkeys((map_folder(settings, bundle), bundle.files)):
        if FeatureMap.there(folder):
            try:
                return FeatureMap.read(folder, bundle.sae.d_sae)
            except BadBundle:
                continue  # a map is no reason to answer nothing: it is drawn again
    return draw_map(bundle, "pca")
