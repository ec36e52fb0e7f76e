"""Job type `sae_train`: train an SAE and publish it as a bundle."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from server.jobs.worker import JobContext
from server.sae.model_loading import resolve_device
from server.sae.training_run import TrainConfig, TrainingRun
from steering.errors import SteeringError
from steering.files import NAME, path_below
from steering.train.distributed import SINGLE_PROCESS
from steering.train.trainer import Progress


@dataclass(frozen=True)
class SaeTrainConfig(TrainConfig):
    """Training configuration, and the name of the bundle."""

    out: Annotated[str, Field(pattern=NAME)] = "trained"


def run(work: JobContext) -> dict[str, Any]:
    """Run an `sae_train` job: writes a bundle to the data directory's `bundles/`."""
    asked = dict(work.config)
    out = path_below(work.settings.data_dir / "bundles", str(asked.pop("out")))
    if out.exists():
        raise SteeringError(f"{str(out)!r} exists; give the job another `out`")
    out.parent.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(
        TrainConfig(**{**asked, "text": tuple(asked["text"])}),
        work.folder / "run",
        device=resolve_device("auto"),
        ranks=SINGLE_PROCESS,
    )

    def on_progress(now: Progress) -> None:
        figures = {"step": now.step, "loss": now.loss, "explained_variance": now.explained_variance, "l0": now.l0}
        work.report_progress(0.95 * now.step / run.steps, figures | {"dead": now.dead})

    run.train(on_progress, every=500)
    _, measures, spliced = run.finish(out, f"job {work.id}")
    return {"bundle": str(out), "measures": asdict(measures), "loss_rise": spliced.rise}


JOB = (SaeTrainConfig, run)
"""Schema and function of the job type `sae_train`."""
