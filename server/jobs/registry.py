"""Job registry: maps job types to their modules."""

TASKS = {
    "sae_train": "server.jobs.tasks.sae_train:JOB",
    "sae_update": "server.jobs.tasks.sae_update:JOB",
    "calibrate": "server.jobs.tasks.calibrate:JOB",
    "describe": "server.jobs.tasks.describe:JOB",
    "label": "server.jobs.tasks.label:JOB",
    "map": "server.jobs.tasks.map:JOB",
    "sweep": "server.jobs.tasks.sweep:JOB",
}
"""Module with the schema and function of each type, imported on first use."""
