"""Settings of the SAE runs, in order, and of the pilot's candidates."""

from dataclasses import replace

from recipes.smollm2.files import Record
from recipes.smollm2.sae import Run

PILOT_ROWS = 1_200_000
"""Rows that each candidate learns from."""
CANDIDATES = {
    "plain": Run(layer=12, matryoshka=False),
    "matryoshka": Run(layer=12),
    "small-batches": Run(layer=12, matryoshka=False, rows=2048),
    "slow": Run(layer=12, matryoshka=False, lr=0.5),
    "few-features": Run(layer=12, features=4096, k=32, matryoshka=False),
}
"""Each differs from `plain` in one way, but for the last, which is there to compare with."""
PRICE = 0.01
"""Explained variance that Matryoshka prefixes may cost: they keep general features whole, which sliders want."""
RUNS = {"l12-half": (12, 0.5), "l12": (12, 2.0), "l11-half": (11, 0.5), "l13-half": (13, 0.5), "l14-half": (14, 0.5)}
"""Layer and passes over the cache; the halves are to compare layers by, the first of them comes early."""


def run_of(name: str, pilot: Record) -> Run:
    """A run with the settings that the pilot chose."""
    layer, passes = RUNS[name]
    return replace(Run(**pilot["chosen"]), layer=layer, passes=passes)


def chosen(explained: dict[str, float]) -> Run:
    """Each deviation that made `plain` better, together; Matryoshka prefixes where they cost no more than `PRICE`."""
    plain = explained["plain"]
    return replace(
        CANDIDATES["plain"],
        rows=CANDIDATES["small-batches"].rows if explained["small-batches"] > plain else CANDIDATES["plain"].rows,
        lr=CANDIDATES["slow"].lr if explained["slow"] > plain else CANDIDATES["plain"].lr,
        matryoshka=explained["matryoshka"] >= plain - PRICE,
    )
