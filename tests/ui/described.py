"""The small bundle with described, labelled and calibrated features: examples, histograms, doses, kinds."""

import json
from pathlib import Path

from tests.support import small_bundle

FULL, STALE, DEAD, DENSE, UNSAFE = 1, 4, 5, 6, 2
"""Features: with all that can be known, with a stale label, that never fires, that fires everywhere, with markup for a label."""


def write_bundle(folder: Path) -> Path:
    """Write it."""
    small_bundle.write_bundle(folder)
    file = folder / "revisions/r1/features.jsonl"
    rows = {row["index"]: row for row in map(json.loads, file.read_text().splitlines())}
    rows[FULL] |= _full()
    rows[STALE] = {"index": STALE, "label": "of old", "label_source": "llm:judge", "stale": True, "density": 0.004}
    rows[DEAD] = {"index": DEAD, "label": "silence", "label_source": "contrast", "kind": ["dead"]}
    rows[DENSE] = {"index": DENSE, "label": "everything", "label_source": "contrast", "kind": ["dense"], "density": 0.6}
    file.write_text("\n".join(map(json.dumps, rows.values())))
    return folder


def _full() -> dict:
    pushes = [(-6.0, 0.1, 1.0, 0.3), (3.0, 0.2, 0.3, 0.05), (6.0, 0.5, 1.0, 0.2)]
    return {
        "histogram": {"width": 0.5, "counts": [40, 12, 6, 0, 3, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]},
        "examples": [
            {"tokens": ["the", " bridge", " is", " red"], "activations": [0, 5.0, 1.0, 0], "at": 1, "activation": 5.0},
            {"tokens": ["<|user|>", "a", " bridge", "\n"], "activations": [0, 0, 4.5, 0], "at": 2, "activation": 4.5},
        ],
        "samples": [{"tokens": ["a", " ford"], "activations": [0, 1.25], "at": 1, "activation": 1.25}],
        "top_logits": {"positive": [" bridge", " span"], "negative": [" desert"]},
        "output_score": 0.2,
        "label_scores": {"detection": 0.85, "fuzzing": 0.75, "n": 40},
        "calibration": {
            "knots": [(-1.0, -6.0), (0.0, 0.0), (0.5, 3.0), (1.0, 6.0)],
            "points": [{"raw": r, "effect": e, "kl": k, "surprise": s, "repetition": 0.0} for r, e, k, s in pushes],
            "words": ["bridge", "river"],
            "works": True,
            "z": 3.9,
            "revision": "r1",
        },
    }
