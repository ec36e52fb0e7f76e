"""Background jobs: queue, runner, worker process and progress."""
