"""Is it a number that can be used? One check for settings, options and arguments."""

from math import inf
from numbers import Real


def check_number(name: str, value: object, kind: type, low: float = -inf, high: float = inf,
                 above: float = -inf, below: float = inf) -> None:
    """ValueError, with `name`, unless `value` is an int or a float, as `kind`, in the limits.

    `low` and `high` are allowed themselves, `above` and `below` are not. NaN, infinity, True
    and texts are refused, and 3.0 where an int is expected. NumPy's numbers are accepted.
    """
    if (isinstance(value, Real) and not isinstance(value, bool) and abs(value) < inf
            and (kind is float or hasattr(value, "__index__"))
            and above < value < below and low <= value <= high):
        return
    expected = [{int: "a whole number", float: "a number"}[kind]]
    expected += [f"{words} {limit}" for words, limit in (
        ("above", above), ("at least", low), ("at most", high), ("below", below))
        if abs(limit) < inf]
    raise ValueError(f"{name} is {value!r}; expected {', '.join(expected)}")
