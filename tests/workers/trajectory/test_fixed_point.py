"""Products with a fraction on many numbers at once, against integers without bounds."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drmad_workers.trajectory.fixed_point import DENOMINATOR, InformationBuffer, to_fixed, to_float

fractions = st.integers(1, DENOMINATOR - 1)
numbers = st.integers(-(2**61), 2**61)


@settings(settings.get_profile("engine"))
@given(st.lists(numbers, min_size=1, max_size=6), st.lists(fractions, min_size=1, max_size=40))
def test_products_are_undone_bit_for_bit(values: list[int], numerators: list[int]) -> None:
    buffer, vector = InformationBuffer(), torch.tensor(values)
    states = []
    for numerator in numerators:
        states.append(vector.clone())
        buffer.multiply(vector, numerator)
        exact = (states[-1].double() * numerator / DENOMINATOR - vector.double()).abs()
        assert float(exact.max()) <= DENOMINATOR + 2.0**61 * 2.0**-52
    for numerator in reversed(numerators):
        buffer.divide(vector, numerator)
        assert torch.equal(vector, states.pop())
    assert buffer.copies == 1
    assert not buffer._words[0].any()


@settings(settings.get_profile("engine"))
@given(st.lists(numbers, min_size=4, max_size=4), st.lists(fractions, min_size=1, max_size=40))
def test_each_number_may_have_a_fraction_of_its_own(values: list[int], first: list[int]) -> None:
    buffer, vector = InformationBuffer(), torch.tensor(values)
    rows = [torch.tensor([n, DENOMINATOR - n, 1, DENOMINATOR - 1]) for n in first]
    for row in rows:
        buffer.multiply(vector, row)
    for row in reversed(rows):
        buffer.divide(vector, row)
    assert vector.tolist() == values


def test_a_product_is_that_of_unbounded_integers_until_the_words_are_full() -> None:
    """q, r = divmod(q, d); s = s d + r; s, e = divmod(s, n); q = q n + e (oracle/README.md)."""
    draw = torch.Generator().manual_seed(0)
    vector = torch.randint(-(2**60), 2**60, (50,), generator=draw)
    numbers, words = vector.tolist(), [0] * 50
    buffer = InformationBuffer()
    for numerator in [58983, 60000, 49153, 65535, 32768, 58983] * 3:
        buffer.multiply(vector, numerator)
        for i in range(50):
            numbers[i], digits = divmod(numbers[i], DENOMINATOR)
            words[i], made_up = divmod(words[i] * DENOMINATOR + digits, numerator)
            numbers[i] = numbers[i] * numerator + made_up
    assert buffer.copies == 1
    assert vector.tolist() == numbers
    assert buffer._words[0].tolist() == words


def test_the_buffer_grows_by_the_bits_that_are_shifted_out() -> None:
    buffer, vector = InformationBuffer(), torch.tensor([2**60, -(2**59)])
    for _ in range(1000):
        buffer.multiply(vector, round(0.9 * DENOMINATOR))
        vector += 2**50
    assert buffer.copies == 4  # 1000 log2(1/0.9) / 47 = 3.2


def test_floats_on_the_grid_come_back() -> None:
    values = torch.tensor([0.5, -1.75, 1023.0, 2.0**-52, 0.0], dtype=torch.float64)
    assert torch.equal(to_float(to_fixed(values, 52), 52), values)
    assert to_fixed(torch.tensor([2.0**-53, -(2.0**-53)]), 52).tolist() == [0, 0]
