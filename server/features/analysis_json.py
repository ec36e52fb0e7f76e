"""A text's analysis and a comparison as the API's answers, with features by their ids."""

from torch import Tensor

from server.schemas import analysis
from steering.catalogue.bundle import Bundle
from steering.interpret.analysis import Analysis, compare
from steering.interpret.mood_axes import MoodAxes
from steering.model.passage import NOBODY, Passage


def compared_features(
    bundle: Bundle, one: tuple[Passage, Tensor], other: tuple[Passage, Tensor], *, features: int
) -> list[analysis.Difference]:
    """The features that differ most between two texts."""
    return [
        analysis.Difference(**d.__dict__, id=bundle.features[d.row].id, label=bundle.features[d.row].label)
        for d in compare(bundle, one, other, features=features)
    ]


def analysis_answer(bundle: Bundle, found: Analysis, *, truncated: bool) -> analysis.Analysis:
    """The analysis of a text; `truncated` if the text was cut."""
    passage, name = found.passage, [f.id for f in bundle.features]
    mine = [i for i in range(len(passage.ids)) if passage.part[i] != NOBODY]
    mean, axes = round(float(found.error[mine].mean()), 4), MoodAxes.open(bundle.files, bundle.sae)
    percentile = axes.error_percentile(mean) if axes else None
    return analysis.Analysis(
        object="analysis",
        model=bundle.info.name,
        revision=bundle.info.revision,
        truncated=truncated,
        parts=[analysis.PartOfText(speaker=p.speaker, text=p.text) for p in passage.parts],
        tokens=[_token(found, i, name) for i in mine],
        features=_features(bundle, found, mine),
        labels={name[r]: f.label for i in mine for r, _ in found.top[i] if (f := bundle.features[r]).label},
        speakers={who: {name[r]: v for r, v in means.items()} for who, means in found.speakers.items()},
        error=mean,
        anomaly=analysis.Anomaly(experimental=True, error=mean, percentile=percentile),
        axes=axes.to_dict(bundle, found) if axes else [],
    )


def _token(found: Analysis, i: int, name: list[str]) -> analysis.TokenAnalysed:
    passage = found.passage
    return analysis.TokenAnalysed(
        id=passage.ids[i],
        text=passage.text_of(i),
        part=passage.part[i],
        start=passage.spans[i][0],
        end=passage.spans[i][1],
        top=[analysis.Firing(feature=name[r], activation=a) for r, a in found.top[i]],
        error=round(float(found.error[i]), 4),
    )


def _features(bundle: Bundle, found: Analysis, mine: list[int]) -> list[analysis.FeatureEvoked]:
    return [
        analysis.FeatureEvoked(
            id=bundle.features[e.row].id,
            label=bundle.features[e.row].label,
            max=round(e.maximum, 4),
            mean=round(e.mean, 4),
            count=e.count,
            score=round(e.score, 4),
            activations=[round(v, 4) for v in e.activations[mine].tolist()],
            along=list(found.along[n]),
        )
        for n, e in enumerate(found.features)
    ]
