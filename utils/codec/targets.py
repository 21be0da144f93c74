"""A size, a rate or a score instead of a quality: which quality meets it.

Without search an encoding takes a fraction of a second, so the quality is first looked for without it. The
search then changes rate and score by nearly the same amount at neighboring qualities: one full search tells
how much, which gives the next quality to try. What is returned was encoded with all iterations, and it is that
encoding by which the target is judged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from data import Kind

TOLERANCE = 0.03  # a target rate is met from below within this fraction, or by the next step of quality
MAX_TRIALS = 12  # encodings with search
MOST = 1e6  # of a score that counts: the PSNR of equal signals is infinite, and lines are drawn through scores


def metrics_of(kind: Kind | type[Kind]) -> tuple[str, ...]:
    """The metrics that a target of this kind of signal can have, as `Target.metric` names them."""
    return "bytes", kind.rate_unit, *kind.metric_names


@dataclass(frozen=True)
class Target:
    """What a file has to meet, in place of a quality.

    metric  "bytes"; the kind's rate unit, "bpp" or "kbps"; or one of the kind's metrics, such as "psnr_db"
    value   bytes and rates: the most that the whole file may have, met from below within 3 % or by the last
            quality step that fits; of bytes, by whatever the highest quality has. Scores: what the decoded
            signal reaches, at the lowest quality that does.
    """

    metric: str
    value: float

    @property
    def text(self) -> str:
        """The target in words, for messages."""
        return f"{self.value:g} {self.metric}"

    def check(self, kind: Kind) -> None:
        """Raise ValueError where the metric is not of this kind."""
        names = metrics_of(kind)
        if self.metric not in names:
            raise ValueError(f"{self.metric} is not a metric of {kind.name}: a target can be {', '.join(names)}")

    def is_rate(self, kind: Kind) -> bool:
        """Whether the target bounds the file's size, not the decoded signal's score."""
        return self.metric in ("bytes", kind.rate_unit)


def bisect(first: int, last: int, is_below: Callable[[int], bool]) -> int:
    """The highest step in first..last for which `is_below` holds; `first` if it holds for none."""
    while last > first:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if is_below(middle) else (first, middle - 1)
    return first


def meet(
    target: Target,
    kind: Kind,
    last: int,
    quick: Callable[[int], float],
    full: Callable[[int], float],
) -> int:
    """The quality step in 0..last that meets the target.

    `quick` and `full` measure the target's metric on encodings at a step, without search and with all of it.
    Both may be called several times for one step. Raises ValueError with the nearest value where
    no step meets the target, or where the metric cannot be measured on this signal.
    """
    target.check(kind)
    rate = target.is_rate(kind)
    sign = -1 if target.metric in kind.lower_is_better else 1

    def finite(measure: Callable[[int], float]) -> Callable[[int], float]:
        def measured(step: int) -> float:
            value = measure(step)
            if math.isnan(value):
                raise ValueError(f"{target.metric} cannot be measured on this signal, which is too short or too small")
            return value if rate else max(-MOST, min(value, MOST))

        return measured

    def below(value: float) -> bool:
        return value <= target.value if rate else sign * value < sign * target.value

    quick, full = finite(quick), finite(full)
    low, high = -1, last + 1  # a step that is below, and one that is not, among those encoded in full
    tried: list[int] = []

    def expected(step: int) -> float:
        """The value of a full encoding by the line through the last two trials, over that of one without search."""
        if not tried:
            return quick(step)
        one, other = (low, high) if low >= 0 and high <= last else (tried[-1], tried[max(-2, -len(tried))])
        rise = full(other) - full(one), quick(other) - quick(one)
        if rise[0] * rise[1] > 0:
            return full(one) + (quick(step) - quick(one)) * rise[0] / rise[1]
        return quick(step) * full(one) / quick(one) if rate else quick(step) + full(one) - quick(one)

    while high - low > 1 and len(tried) < MAX_TRIALS:
        step = bisect(low, high - 1, lambda s: below(expected(s)))
        if not rate or step == low:  # for a score the first that is not below; low itself was tried
            step += 1
        if len(tried) % 3 == 2 and low >= 0 and high <= last:  # whatever the line says, the gap shrinks
            step = (low + high) // 2
        step = min(step, high - 1)
        value = full(step)
        tried.append(step)
        if not below(value):
            high = step
        else:
            low = step
            if rate and value >= target.value * (1 - TOLERANCE):
                break
    if rate:
        return _checked_rate(target, low, high, last, full)
    if high > last:
        side = "above" if sign > 0 else "below"
        raise ValueError(f"{target.metric} {target.value:g} is {side} what the highest quality gives, {full(last):.3f}")
    return high


def _checked_rate(target: Target, low: int, high: int, last: int, full: Callable[[int], float]) -> int:
    digits = 0 if target.metric == "bytes" else 4
    if low < 0:
        raise ValueError(
            f"{target.text} is below what this signal can be coded in; "
            f"the nearest reachable rate is {full(0 if high > last else high):.{digits}f} {target.metric}"
        )
    # Bytes are a budget, which a small picture may not use up; a rate is asked for as such.
    if low == last and full(last) < target.value * (1 - TOLERANCE) and target.metric != "bytes":
        raise ValueError(
            f"{target.text} is above the highest quality; "
            f"the nearest reachable rate is {full(last):.{digits}f} {target.metric}"
        )
    return low
