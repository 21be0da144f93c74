"""The search of the quantized latent: ADMM, its rivals, and how a CPU runs the generator for it."""
