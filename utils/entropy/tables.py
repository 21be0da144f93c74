"""Tables of integers: arrays by name, as a checkpoint stores them."""

from dataclasses import MISSING, fields

import numpy as np


class Tables:
    """Base of dataclasses whose fields are all arrays, or None where they have a default.

    Nothing is written into an array once it is checked.
    """

    def __post_init__(self):
        for name, array in self.to_arrays().items():
            setattr(self, name, np.ascontiguousarray(array))
        self.check()

    def check(self) -> None:
        """Raises ValueError where types, shapes or values are not possible."""
        raise NotImplementedError

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The fields that are not None, by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Tables":
        """Raises ValueError where an array is missing, unknown, or fails the check."""
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= set(arrays) <= known:
            raise ValueError(f"{cls.__name__}: {sorted(needed - set(arrays) | set(arrays) - known)} missing or unknown")
        return cls(**arrays)
