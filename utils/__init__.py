"""The ground (files, metrics, distributed, memory, precision, compiled, console), and above it the codec's rooms."""

__version__ = "0.1.0"
