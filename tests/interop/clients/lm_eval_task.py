"""lm-eval over HTTP: the log-likelihood of every choice of a small task, as JSON on standard output."""

import json
import sys
from pathlib import Path

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

address, folder, tokenizer, *models = sys.argv[1:]

CHOICES = """
task: bridges
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: " "
"""
(Path(folder) / "bridges.yaml").write_text(CHOICES.format(questions=Path(folder) / "questions.jsonl"))


def log_likelihoods(model):
    arguments = {
        "model": model,
        "base_url": f"{address}/v1/completions",
        "tokenizer": tokenizer,
        "tokenizer_backend": "huggingface",
        "max_length": 512,
        "num_concurrent": 2,
    }
    done = simple_evaluate(
        model="local-completions",
        model_args=arguments,
        tasks=["bridges"],
        task_manager=TaskManager(include_path=folder, include_defaults=False),
        batch_size=3,
        bootstrap_iters=0,
    )
    return {
        "replies": [
            [float(r[0][0]) for r in s["resps"]] for s in sorted(done["samples"]["bridges"], key=lambda s: s["doc_id"])
        ],
        "accuracy": done["results"]["bridges"]["acc,none"],
    }


sys.stdout.write(json.dumps({model: log_likelihoods(model) for model in models}))
