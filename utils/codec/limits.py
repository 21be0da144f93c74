"""How large a signal may be: one place for what is decoded and for what is encoded.

A file of 31 bytes can declare any size, and a blank signal of any size has no more bytes than that. So
only a limit on the declared size bounds what decoding costs. It is checked on the header, before anything
of that size is allocated.

A kind of signal names its extent and the default (`Kind.extent_unit`, `Kind.max_extent`). Sender and
receiver share the default, so that a receiver decodes whatever a sender writes without being told.
"""

import argparse

from data import KINDS, Kind, kind_class


def limit_names() -> tuple[str, ...]:
    """The limits that there are, as options and arguments name them: max_pixels, max_seconds."""
    return tuple(dict.fromkeys(f"max_{kind_class(name).extent_unit}" for name in KINDS))


class Limits:
    """`Limits(max_pixels=16e6, max_seconds=60)`: what is left out, or None, stays at the kind's default.

    `math.inf` lifts a limit. Raises ValueError for an unknown name, or a number that is not positive.
    """

    def __init__(self, **largest: float | None):
        for name, value in largest.items():
            if name not in limit_names():
                raise ValueError(f"{name} is not a limit: these are {', '.join(limit_names())}")
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} is not a positive number")
        self._largest = {name: value for name, value in largest.items() if value is not None}

    @classmethod
    def of_options(cls, options: argparse.Namespace) -> "Limits":
        """The limits among a script's options."""
        return cls(**{name: getattr(options, name, None) for name in limit_names()})

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={value:g}' for name, value in self._largest.items())})"

    def of(self, kind: Kind) -> float:
        """The largest extent of a signal of this kind, in its `extent_unit`."""
        return float(self._largest.get(f"max_{kind.extent_unit}", type(kind).max_extent))
