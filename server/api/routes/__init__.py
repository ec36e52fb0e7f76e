"""HTTP routes, one file per resource."""

from server.api.routes import (
    analyze,
    attribute,
    chat,
    compare,
    contrast,
    feature_map,
    features,
    feedback,
    health,
    jobs,
    keys,
    limits,
    measurements,
    models,
    presets,
    queue,
    sae_changes,
    saes,
    shares,
    sign_in,
    steering,
    suggest,
    training_data,
    transfer,
    vectors,
)

ROUTERS = tuple(
    module.router
    for module in (
        chat,
        queue,
        compare,
        models,
        features,
        steering,
        feature_map,
        measurements,
        analyze,
        contrast,
        attribute,
        vectors,
        feedback,
        suggest,
        transfer,  # before the presets: /v1/presets/export is not the preset "export"
        presets,
        saes,
        sae_changes,
        training_data,
        jobs,
        limits,
        shares,
        keys,
    )
)
"""Routers whose routes require a role."""
OPEN_ROUTERS = (health.router, sign_in.router)
"""Routers without authentication."""
