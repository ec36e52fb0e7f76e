"""The served SAE: training runs, evaluation, revisions and drift."""
