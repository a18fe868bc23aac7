"""Fixed-point numbers on which a step of momentum can be undone bit for bit.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning,
1502.03492, section 3 and its appendix: exact multiplication by a fraction.
"""

import torch
from torch import Tensor

DENOMINATOR_BITS = 16
DENOMINATOR = 2**DENOMINATOR_BITS
_LOW_BITS = DENOMINATOR - 1


def to_fixed(values: Tensor, bits: int) -> Tensor:
    """trunc(x 2^bits), int64."""
    return torch.mul(values.double(), 2.0**bits).long()


def to_float(numbers: Tensor, bits: int) -> Tensor:
    """q / 2^bits, rounded to float64."""
    return numbers.double().mul_(2.0**-bits)


def limit(bits: int) -> float:
    """Numbers stay below this, so that a sum of two that went too far still shows it."""
    return 2.0 ** (62 - bits)


class InformationBuffer:
    """The digits that q n / 65536 shifts out of q, kept in as few bits as they carry.

    One word s per number, q = 65536 q' + r:  s <- 65536 s + r,  s = n s' + e,  q <- n q' + e.
    What a product forgets of q enters s, and what it is free to make up is taken out of s, so that
    s grows by log2(65536 / n) bits and every step has an exact inverse. What is made up is worth
    less than n in the last place. Before a word could overflow, all words go onto a stack and new
    ones begin at 0.
    """

    def __init__(self) -> None:
        self._words: list[Tensor] = []
        self._products: list[int] = []
        """How many each of the stacked words has taken in."""
        self._largest = 0
        """No last word is larger than this."""

    @property
    def copies(self) -> int:
        """Words kept per number."""
        return len(self._words)

    def multiply(self, numbers: Tensor, numerator: int | Tensor) -> None:
        """q <- q n / 65536 in place; int64 of shape (P,), 0 < n < 65536 one for all or (P,)."""
        if not self._words or self._largest >> (63 - DENOMINATOR_BITS):
            self._words.append(torch.zeros_like(numbers))
            self._products.append(0)
            self._largest = 0
        word = self._words[-1]
        word.bitwise_left_shift_(DENOMINATOR_BITS).bitwise_or_(numbers.bitwise_and(_LOW_BITS))
        numbers.bitwise_right_shift_(DENOMINATOR_BITS)
        made_up = torch.remainder(word, numerator)
        word.div_(numerator, rounding_mode="trunc")
        numbers.mul_(numerator).add_(made_up)
        self._products[-1] += 1
        least = int(numerator.min()) if isinstance(numerator, Tensor) else numerator
        self._largest = (self._largest * DENOMINATOR + _LOW_BITS) // least

    def divide(self, numbers: Tensor, numerator: int | Tensor) -> None:
        """Undoes the last `multiply`."""
        if self._products[-1] == 0:
            self._words.pop()
            self._products.pop()
        word = self._words[-1]
        made_up = torch.remainder(numbers, numerator)
        numbers.sub_(made_up).div_(numerator, rounding_mode="trunc")
        word.mul_(numerator).add_(made_up)
        numbers.bitwise_left_shift_(DENOMINATOR_BITS).bitwise_or_(word.bitwise_and(_LOW_BITS))
        word.bitwise_right_shift_(DENOMINATOR_BITS)
        self._products[-1] -= 1
