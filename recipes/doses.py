"""Measure the doses of a bundle's features and the scales of its personas: `python -m recipes.doses`.

The last stage: it writes doses, curves and sweet spots into the catalogue, converts the personas' strengths to the new
doses (they push as far as before), and updates the checksums.
"""

import argparse
from pathlib import Path

from recipes.bundle import write_sums
from recipes.train_model import say
from server.jobs.tasks.calibrate import CalibrateConfig, calibrate_bundle
from server.settings import Settings


def main() -> None:
    """Measure the features that personas use, or all of them."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--bundle", default="sae_weights/harbor")
    p.add_argument("--all", action="store_true", help="every feature that ever fires")
    args = p.parse_args()
    bundle = Path(args.bundle)
    told = lambda n, of: say(f"{n} of {of} features") if n % 50 == 0 or n == of else None  # noqa: E731
    features, presets = calibrate_bundle(Settings(bundle=bundle), CalibrateConfig(all=args.all), told)
    write_sums(bundle)
    works = sum(bool(f.calibration and f.calibration.works) for f in features)
    spots = sum(p.sweet_spot is not None for p in presets)
    say(f"{len(features)} doses, {works} with an effect; {spots} of {len(presets)} personas have a sweet spot")


if __name__ == "__main__":
    main()
