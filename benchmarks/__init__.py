"""Rate, quality and speed of this codec and of others on the same files."""
