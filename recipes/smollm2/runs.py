"""Settings of the SAE runs: the pilot's candidates, one short run a layer, and the final run."""

from dataclasses import replace

from recipes.smollm2.cache import LAYERS
from recipes.smollm2.files import Record
from recipes.smollm2.sae import Run

PILOT_ROWS = 700_000
"""Rows that each candidate learns from."""
CANDIDATES = {
    "plain": Run(layer=12, matryoshka=False),
    "matryoshka": Run(layer=12),
    "small-batches": Run(layer=12, matryoshka=False, rows=2048),
}
"""Each differs from `plain` in one way."""
PRICE = 0.01
"""Explained variance that Matryoshka prefixes may cost: they keep general features whole, which sliders want."""
SHORT = {f"layer-{layer}": Run(layer=layer, features=4096, passes=0.25) for layer in LAYERS}
"""One short run a layer; stage `layers` compares what their features do."""
FINAL_PASSES = 5.0
"""Passes of the final run over the cache."""


def final_run(pilot: Record, layers: Record) -> Run:
    """The run that is shipped: the pilot's settings at the layer that was chosen."""
    return replace(Run(**pilot["chosen"]), layer=layers["chosen"], passes=FINAL_PASSES)


def chosen(explained: dict[str, float]) -> Run:
    """Small batches where they explained more, and Matryoshka prefixes where they cost no more than `PRICE`."""
    plain = explained["plain"]
    return replace(
        CANDIDATES["plain"],
        rows=CANDIDATES["small-batches"].rows if explained["small-batches"] > plain else CANDIDATES["plain"].rows,
        matryoshka=explained["matryoshka"] >= plain - PRICE,
    )
