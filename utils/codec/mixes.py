"""What is made for a realism, of which a program may ask for any number."""

from collections.abc import Callable
from typing import TypeVar

MIXES_KEPT = 2  # besides those of the realism 0 and 1
Made = TypeVar("Made")


def made_for(realism: float, made: dict[float, Made], make: Callable[[], Made]) -> Made:
    """`made[realism]`, made where it is missing. Of the mixtures the last MIXES_KEPT stay: each has all weights."""
    if realism not in made:
        mixes = [other for other in made if other not in (0.0, 1.0)]
        if realism not in (0.0, 1.0) and len(mixes) >= MIXES_KEPT:
            del made[mixes[0]]
        made[realism] = make()
    return made[realism]
