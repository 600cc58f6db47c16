"""The training loop: processes, batches, objective, one stage of optimisation, its saved state and its records."""
