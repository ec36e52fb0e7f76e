"""Map files: feature maps of a bundle's revisions."""

from pathlib import Path

from server.settings import Settings
from steering.catalogue.bundle import Bundle
from steering.errors import BadBundle
from steering.interpret.feature_map import FeatureMap, draw_map


def map_folder(settings: Settings, bundle: Bundle) -> Path:
    """Folder of a revision's map: beside its SAE; for the embedded one, which is read-only, in the data directory."""
    live = settings.data_dir / "revisions" / bundle.info.name
    if bundle.files.is_relative_to(live):
        return bundle.files
    return settings.data_dir / "maps" / bundle.info.name / bundle.info.revision


def load_map(settings: Settings, bundle: Bundle) -> FeatureMap:
    """The map of a revision: from its file, or computed now."""
    for folder in dict.fromkeys((map_folder(settings, bundle), bundle.files)):
        if FeatureMap.exists(folder):
            try:
                return FeatureMap.read(folder, bundle.sae.d_sae)
            except BadBundle:
                continue  # a damaged map is no reason to fail: it is computed again
    return draw_map(bundle, "pca")
