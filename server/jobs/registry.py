"""Job registry: the type of a job → the module that runs it."""

TASKS = {
    "sae_train": "server.jobs.tasks.sae_train:JOB",
    "sae_update": "server.jobs.tasks.sae_update:JOB",
    "calibrate": "server.jobs.tasks.calibrate:JOB",
    "describe": "server.jobs.tasks.describe:JOB",
    "label": "server.jobs.tasks.label:JOB",
    "map": "server.jobs.tasks.map:JOB",
    "sweep": "server.jobs.tasks.sweep:JOB",
}
"""Where each type's schema and function are: a pair that is only imported when it is needed."""
