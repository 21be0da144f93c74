"""Training: stages, the optimizer, entropy tables, model cards."""
