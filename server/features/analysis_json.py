"""An analysis and a comparison as JSON, with features by their ids."""

from typing import Any

from torch import Tensor

from steering.catalogue.bundle import Bundle
from steering.interpret.analysis import Analysis, compare
from steering.interpret.mood_axes import MoodAxes
from steering.model.passage import NOBODY, Passage


def comparison_to_dict(
    bundle: Bundle, one: tuple[Passage, Tensor], other: tuple[Passage, Tensor], *, features: int
) -> list[dict[str, Any]]:
    """A comparison as JSON: features by id."""
    differences = compare(bundle, one, other, features=features)
    return [{**d.__dict__, "id": bundle.features[d.row].id, "label": bundle.features[d.row].label} for d in differences]


def analysis_to_dict(bundle: Bundle, found: Analysis) -> dict[str, Any]:
    """An analysis as JSON: features by id."""
    passage, name = found.passage, [f.id for f in bundle.features]
    tokens = [
        {
            "id": passage.ids[i],
            "text": passage.text_of(i),
            "part": passage.part[i],
            "start": passage.spans[i][0],
            "end": passage.spans[i][1],
            "top": [{"feature": name[r], "activation": a} for r, a in found.top[i]],
            "error": round(float(found.error[i]), 4),
        }
        for i in range(len(passage.ids))
        if passage.part[i] != NOBODY
    ]
    mine = [i for i in range(len(passage.ids)) if passage.part[i] != NOBODY]
    features = [
        {
            "id": name[e.row],
            "label": bundle.features[e.row].label,
            "max": round(e.maximum, 4),
            "mean": round(e.mean, 4),
            "count": e.count,
            "score": round(e.score, 4),
            "activations": [round(v, 4) for v in e.activations[mine].tolist()],
            "along": list(found.along[n]),
        }
        for n, e in enumerate(found.features)
    ]
    mean, axes = round(float(found.error[mine].mean()), 4), MoodAxes.open(bundle.files, bundle.sae)
    return {
        "object": "analysis",
        "parts": [{"speaker": p.speaker, "text": p.text} for p in passage.parts],
        "tokens": tokens,
        "features": features,
        "speakers": {who: {name[r]: v for r, v in means.items()} for who, means in found.speakers.items()},
        "error": mean,
        "anomaly": {"experimental": True, "error": mean, "percentile": axes.error_percentile(mean) if axes else None},
        "axes": axes.to_dict(bundle, found) if axes else [],
    }
