"""Entropy coding of symbols, in integers only. A new coder is one module and one line here.

Nothing is imported with the names: the coders' inner loops are compiled by numba, which takes most of a
second to load.
"""

from importlib import import_module

CODERS = {"huffman": ("utils.entropy.huffman", "HuffmanCoder"), "context": ("utils.entropy.ans", "ContextCoder")}


class CorruptPayload(ValueError):
    """The payload cannot have been written for this shape, quality and checkpoint."""


def coder_class(name: str):
    """The class of a coder (`utils.entropy.coders.Coder`); its module is imported only when it is needed."""
    module, cls = CODERS[name]
    return getattr(import_module(module), cls)
