"""What tests read from the golden vectors, of which tests/golden holds a part."""

import pytest


def kept(vectors, key):
    """``vectors[key]``; the test is skipped where the part was cut without it."""
    if key not in vectors:
        pytest.skip(f"the part in tests/golden was cut without '{key}': let LOTTERY_GOLDEN name the whole folder")
    return vectors[key]
