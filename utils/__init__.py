"""The ground (files, metrics, distributed, memory, console), and above it the rooms of the codec."""

__version__ = "0.1.0"
