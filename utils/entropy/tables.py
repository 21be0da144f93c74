"""Tables of integers: arrays by name, as a checkpoint stores them."""

from dataclasses import fields

import numpy as np


class Tables:
    """Base of dataclasses whose fields are all arrays. Nothing is written into an array once it is checked."""

    def __post_init__(self):
        for name, array in self.to_arrays().items():
            setattr(self, name, np.ascontiguousarray(array))
        self.check()

    def check(self) -> None:
        """Raises ValueError where types, shapes or values are not possible."""
        raise NotImplementedError

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "Tables":
        """Raises ValueError where an array is missing, unknown, or fails the check."""
        names = {field.name for field in fields(cls)}
        if set(arrays) != names:
            raise ValueError(f"{cls.__name__}: {sorted(set(arrays) ^ names)} missing or unknown")
        return cls(**arrays)
