"""Entropy coding of symbols, in integers only: the network that predicts them, and the coders."""
