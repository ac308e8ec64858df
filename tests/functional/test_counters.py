import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_lottery.functional.counters import mix64, mix64_each

NUMBERS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("number", "output"), [(0, 0xE220A8397B1DCDAF), (1, 0x910A2DEC89025CC1), (1234567, 6457827717110365317)]
)
def test_one_number_gives_the_first_output_that_splitmix64_publishes_for_it_as_a_seed(number, output):
    assert mix64(number) == output


@given(NUMBERS, st.data())
def test_each_number_changes_the_result_and_so_does_their_order(numbers, data):
    index = data.draw(st.integers(0, len(numbers) - 1))
    changed = [number ^ (k == index) for k, number in enumerate(numbers)]
    assert mix64(*changed) != mix64(*numbers)
    if numbers != numbers[::-1]:
        assert mix64(*numbers[::-1]) != mix64(*numbers)


@given(NUMBERS)
def test_results_have_64_bits_and_numbers_count_modulo_2_to_the_64(numbers):
    for carry in (False, True):
        mixed = mix64(*numbers, carry=carry)
        assert 0 <= mixed < 2**64
        assert mix64(*(number - 2**64 for number in numbers), carry=carry) == mixed


@given(st.integers(0, 2**64 - 1 - 0x9E3779B97F4A7C15))
def test_where_no_sum_carries_the_bit_that_is_kept_changes_nothing(number):
    assert mix64(number, carry=True) == mix64(number)


@given(st.integers(0, 2**65), st.integers(0, 2**64 - 9), st.integers(0, 8))
def test_of_many_numbers_each_is_mixed_as_by_itself(seed, start, count):
    numbers = range(start, start + count)
    assert mix64_each(seed, numbers).tolist() == [mix64(seed, number) for number in numbers]
