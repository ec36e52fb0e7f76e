"""Train on half of each batch per rank, or alone on all of it, and write the loss curve to the given file."""

import sys

import torch

from steering.train.distributed import process_group
from steering.train.objectives import BatchTopK
from steering.train.trainer import Trainer, TrainingRecipe


def batches(n=400, d=24, features=48):
    directions = torch.nn.functional.normalize(
        torch.randn(features, d, generator=torch.Generator().manual_seed(0)), dim=1
    )
    g = torch.Generator().manual_seed(1)
    for _ in range(n):
        on = torch.rand(512, features, generator=g) < 0.06
        yield (on * (0.5 + torch.rand(512, features, generator=g))) @ directions + 0.3


def main() -> None:
    torch.set_num_threads(1)
    with process_group() as ranks:
        mine = lambda x: x.chunk(ranks.size)[ranks.rank]  # noqa: E731
        first, *rest = batches()
        recipe = TrainingRecipe(
            BatchTopK(k=3, anneal=50, dead_after=2_000), d_sae=64, steps=len(rest), lr=3e-3, warmup=50
        )
        run, losses = Trainer.start(recipe, mine(first), ranks=ranks), []
        for batch in rest:
            run.step(mine(batch))
            if run.steps % 50 == 0:
                losses.append(run.progress().loss)
        if ranks.rank == 0:
            torch.save({"losses": torch.tensor(losses), "W_dec": run.weights.W_dec.detach()}, sys.argv[1])
    assert not torch.distributed.is_initialized()


main()
