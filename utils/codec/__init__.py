"""A signal to the bytes of a file and back: checkpoints, the file format, sender and receiver."""
