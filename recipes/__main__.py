"""The whole recipe in one command: `python -m recipes --bundle runs/harbor`.

Model, SAE, catalogue, personas, bundle: each stage is a command of its own (`python -m recipes.<stage> --help`) and
records its arguments in the bundle. An interrupted stage resumes or runs again; with `--from`, the stages before it are
skipped.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

STAGES = ("train_model", "train_sae", "describe", "personas", "bundle", "doses")
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "recipe.json")
MORE_MODEL_FILES = ("tokenizer_config.json", "chat_template.jinja")


def main() -> None:
    """Run the stages in order; stop at the first that fails."""
    args = _arguments()
    bundle = Path(args.bundle)
    made = bundle.with_name(f"{bundle.name}-model")  # includes checkpoints, which are not shipped
    for stage in STAGES[STAGES.index(args.start) :]:
        if stage == "train_model":
            chats = ["--chats", args.chats] if args.chats else []
            _run(stage, "--out", str(made), "--minutes", str(args.minutes), *chats)
            _copy(made, bundle / "model")
        else:
            more = {"train_sae": ["--steps", str(args.steps)], "personas": ["--threads", str(args.threads)]}
            _run(stage, "--bundle", str(bundle), *more.get(stage, []))


def _run(stage: str, *arguments: str) -> None:
    command = [sys.executable, "-m", f"recipes.{stage}", *arguments]
    sys.stdout.write(f"\n{' '.join(command[1:])}\n")
    sys.stdout.flush()
    subprocess.run(command, check=True)


def _copy(made: Path, model: Path) -> None:
    model.mkdir(parents=True, exist_ok=True)
    for name in (*MODEL_FILES, *MORE_MODEL_FILES):
        shutil.copyfile(made / name, model / name)


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bundle", default="runs/harbor", help="the folder to make; its name is the bundle's")
    p.add_argument("--minutes", type=float, default=58, help="for the model")
    p.add_argument("--steps", type=int, default=1200, help="for the SAE")
    p.add_argument("--threads", type=int, default=0, help="for the personas; 0 leaves it to torch")
    p.add_argument("--chats", help="more chats for the model; see recipes.train_model")
    p.add_argument("--from", dest="start", choices=STAGES, default=STAGES[0])
    return p.parse_args()


if __name__ == "__main__":
    main()
