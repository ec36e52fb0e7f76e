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
FINAL_LAYER, FINAL_PASSES = 12, 3.0
"""Layer of the final run, and its passes over the cache.

At one nat the features of layer 13 do most (stage `layers`). But a run of five passes there explained 0.894 of held-out
chats and prose, where 0.90 was wanted, and layer 12 explains 0.009 more of the same; in whole replies both layers showed
their concepts equally often (0.27 and 0.28 at equal fluency, thirteen concepts), and the bridge only after layer 12.
"""


def final_run(pilot: Record) -> Run:
    """The run that is shipped: the pilot's settings, with the further passages of stage `more`."""
    return replace(Run(**pilot["chosen"]), layer=FINAL_LAYER, passes=FINAL_PASSES, more=True)


def chosen(explained: dict[str, float]) -> Run:
    """Small batches where they explained more, and Matryoshka prefixes where they cost no more than `PRICE`."""
    plain = explained["plain"]
    return replace(
        CANDIDATES["plain"],
        rows=CANDIDATES["small-batches"].rows if explained["small-batches"] > plain else CANDIDATES["plain"].rows,
        matryoshka=explained["matryoshka"] >= plain - PRICE,
    )
