"""SAE training runs, evaluation, served revision and drift."""
