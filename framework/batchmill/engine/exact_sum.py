"""An exact sum of floats, whose result depends neither on their order nor on how they were grouped.

Every finite float64 is an integer multiple of one tiny unit, so a sum kept as an integer number of units has
no rounding that could depend on anything. Integers of that width are slow to add one by one; therefore values
are first added per exponent, by numpy, in bins whose float64 totals stay exact, and the bins are emptied into
one Python integer now and then. The result is rounded once, at the end, as ``math.fsum`` would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

# frexp gives x = m * 2**e with 0.5 <= |m| < 1 and e in -1073..1024, and m * 2**53 is an integer. So every
# float64 is a multiple of 2**(-1073 - 53).
_LEAST_EXPONENT = -1073
_BINS = 1024 - _LEAST_EXPONENT + 1
_UNIT_BITS = 53 - _LEAST_EXPONENT
# m * 2**53 = high * 2**27 + low, with |high| <= 2**26 and 0 <= low < 2**27.
_HIGH_BITS, _LOW_BITS = 26, 27
# That many values per bin keep both bins below 2**53 of their units, where float64 adds exactly.
_PENDING_LIMIT = 2**26
# Values per step: the temporaries then fit the processor's cache.
_BLOCK = 2**14


class ExactSum:
    """The exact sum of all values added, and how many there were.

    >>> total = ExactSum()
    >>> total.add([0.1] * 10)
    >>> total.add([1e300, -1e300])
    >>> total.value(), total.count
    (1.0, 12)

    Any split of the values over several sums, merged in any order, gives the same ``state()``.
    """

    __slots__ = ("_count", "_high", "_low", "_pending", "_units")

    def __init__(self) -> None:
        self._count = 0
        self._units = 0  # the part that is no longer in the bins, in units of 2**-_UNIT_BITS
        self._pending = 0  # how many values the bins hold
        self._high: npt.NDArray[np.float64] | None = None
        self._low: npt.NDArray[np.float64] | None = None

    @property
    def count(self) -> int:
        """How many values were added."""
        return self._count

    def add(self, values: Any) -> None:
        """Add every element of an array.

        Args:
            values: A number, an array, a (nested) list of numbers or a tensor, of any shape; floats of up to
                64 bits, integers or bools. All of them are added exactly, integers beyond 2**53 too.

        Raises:
            ValueError: A value is NaN or infinite (the message says which), or these are no numbers. Nothing
                was added then.
        """
        array = _as_numbers(values)
        if array.dtype.kind == "f":
            flat = array.reshape(-1)
            if not np.isfinite(flat).all():
                raise ValueError(_describe_not_finite(array))
            for start in range(0, flat.size, _BLOCK):
                self._add_block(flat[start : start + _BLOCK])
        else:
            self._units += _sum_of_integers(array) << _UNIT_BITS
        self._count += array.size

    def merge(self, other: ExactSum) -> None:
        """Add everything that another sum holds; the other is left as it is."""
        other._empty_bins()
        self._units += other._units
        self._count += other._count

    def value(self) -> float:
        """Return the sum, rounded once to the nearest float64; 0.0 for no values.

        Raises:
            OverflowError: The sum is beyond the largest float64.
        """
        return self._divided_by(1)

    def mean(self) -> float | None:
        """Return the exact sum divided by the count, rounded once; None for no values."""
        return self._divided_by(self._count) if self._count else None

    def state(self) -> dict[str, Any]:
        """Return the sum as JSON values: it is ``mantissa * 2**exponent``, with an odd (or zero) mantissa.

        Returns:
            ``count`` and ``exponent`` as integers, ``mantissa`` in hexadecimal (it may have 2,000 bits, which
            not every JSON reader takes as a number). Equal sums of equally many values have equal states.
        """
        self._empty_bins()
        zeros = (self._units & -self._units).bit_length() - 1 if self._units else 0
        exponent = zeros - _UNIT_BITS if self._units else 0
        return {"count": self._count, "mantissa": format(self._units >> zeros, "x"), "exponent": exponent}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ExactSum:
        """Rebuild a sum from ``state()``.

        Raises:
            ValueError: This is not such a state.
        """
        try:
            count, exponent = int(state["count"]), int(state["exponent"])
            mantissa = int(state["mantissa"], 16)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{state!r} is not the state of an ExactSum; expected count, mantissa (in hex) and exponent."
            ) from error
        if count < 0 or exponent < -_UNIT_BITS:
            raise ValueError(
                f"The state of an ExactSum has count {count} and exponent {exponent}; expected at least 0 "
                f"and {-_UNIT_BITS}."
            )
        rebuilt = cls()
        rebuilt._count = count
        rebuilt._units = mantissa << (exponent + _UNIT_BITS)
        return rebuilt

    def __repr__(self) -> str:
        return f"ExactSum(value={self.value()!r}, count={self._count})"

    def _divided_by(self, divisor: int) -> float:
        self._empty_bins()
        try:
            return self._units / (divisor << _UNIT_BITS)  # Python rounds a quotient of integers correctly
        except OverflowError:
            raise OverflowError("the exact sum is beyond the largest float64 (1.8e308)") from None

    def _add_block(self, block: npt.NDArray[np.floating[Any]]) -> None:
        if self._pending + block.size > _PENDING_LIMIT:
            self._empty_bins()
        if self._high is None or self._low is None:
            self._high, self._low = np.zeros(_BINS), np.zeros(_BINS)
        mantissas, exponents = np.frexp(block)
        least = int(exponents.min())
        bins = exponents.astype(np.intp)
        bins -= least
        first = least - _LEAST_EXPONENT
        scaled = mantissas * mantissas.dtype.type(2**_HIGH_BITS)
        if block.dtype.itemsize < 8:  # 24 bits at most: there is no low half
            high_sums = np.bincount(bins, weights=scaled)
        else:
            high = np.floor(scaled)
            scaled -= high
            high_sums = np.bincount(bins, weights=high)
            self._low[first : first + high_sums.size] += np.bincount(bins, weights=scaled)
        self._high[first : first + high_sums.size] += high_sums
        self._pending += block.size

    def _empty_bins(self) -> None:
        if not self._pending or self._high is None or self._low is None:
            return
        for place in np.flatnonzero((self._high != 0) | (self._low != 0)).tolist():
            high, low = int(self._high[place]), int(self._low[place] * 2**_LOW_BITS)
            self._units += ((high << _LOW_BITS) + low) << place
        self._high[:] = 0
        self._low[:] = 0
        self._pending = 0


def _as_numbers(values: Any) -> npt.NDArray[Any]:
    if hasattr(values, "detach"):  # a tensor, told by its method so that torch need not be imported
        tensor = values.detach().cpu()
        values = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    array = np.asarray(values)
    if array.size == 0:
        return np.empty(0)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(
            f"ExactSum was given values of dtype {array.dtype}; expected bools, integers or floats of up to 64 bits."
        )
    # frexp has no half-precision loop of its own, and none for foreign byte orders.
    native = np.dtype(np.float32) if array.dtype.itemsize == 2 and array.dtype.kind == "f" else array.dtype
    return np.ascontiguousarray(array, dtype=native.newbyteorder("="))


def _sum_of_integers(array: npt.NDArray[Any]) -> int:
    if array.dtype.itemsize <= 4:
        return sum(int(part.sum(dtype=np.int64)) for part in _blocks(array, 2**31))
    return sum(
        (int((part >> 32).sum()) << 32) + int((part & 0xFFFFFFFF).sum(dtype=np.uint64))
        for part in _blocks(array, 2**31)
    )


def _blocks(array: npt.NDArray[Any], size: int) -> Iterator[npt.NDArray[Any]]:
    flat = array.reshape(-1)
    return (flat[start : start + size] for start in range(0, flat.size, size))


def _describe_not_finite(array: npt.NDArray[Any]) -> str:
    flat = int(np.flatnonzero(~np.isfinite(array.reshape(-1)))[0])
    place = [int(i) for i in np.unravel_index(flat, array.shape)]
    value = array.reshape(-1)[flat]
    return f"ExactSum adds finite numbers, but the value at {place} of shape {list(array.shape)} is {value}."
