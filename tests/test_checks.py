"""Refusals of arguments: what passes, what does not, and that NaN and bools are no numbers."""

import math

import pytest

from lightning_lottery import LotteryError
from lightning_lottery import checks as c

PASS = {
    "a count": lambda: c.check_count("n", 1, "a number"),
    "a count of zero": lambda: c.check_count("n", 0, "a number", least=0),
    "a small positive": lambda: c.check_positive("n", 1e-300, "a number"),
    "zero as a fraction": lambda: c.check_fraction("n", 0, "a fraction"),
    "one as a fraction": lambda: c.check_fraction("n", 1.0, "a fraction", one=True),
    "a word": lambda: c.check_word("n", "b", ("a", "b")),
    "words": lambda: c.check_words("n", ("b",), ("a", "b")),
    "no name": lambda: c.check_name(None),
    "a name": lambda: c.check_name("left-2"),
    "seeds": lambda: c.check_seed_range("n", [0, 2**32 - 1]),
    "different values": lambda: c.check_different("n", [1, 2], "different seeds", least=2),
}

REFUSED = {
    "a negative seed": (lambda: c.check_seed_range("n", [0, -1]), "`n` are whole numbers from 0 to 4294967295, got -1"),
    "a seed of 33 bits": (lambda: c.check_seed_range("n", [2**32]), "got 4294967296"),
    "a bool for a seed": (lambda: c.check_seed_range("n", [True]), "got True"),
    "a bool for a count": (lambda: c.check_count("n", True, "a number"), "`n` is a number >= 1, got True"),
    "a float for a count": (lambda: c.check_count("n", 2.0, "a number"), "got 2.0"),
    "NaN for a positive": (lambda: c.check_positive("n", math.nan, "a number"), "`n` is a number, > 0, got nan"),
    "a bool for a positive": (lambda: c.check_positive("n", True, "a number"), "got True"),
    "one, excluded": (lambda: c.check_fraction("n", 1.0, "a fraction"), r"in \[0, 1\), got 1.0"),
    "zero, excluded": (lambda: c.check_fraction("n", 0, "a fraction", zero=False), r"in \(0, 1\), got 0"),
    "NaN for a fraction": (lambda: c.check_fraction("n", math.nan, "a fraction", one=True), r"in \[0, 1\], got nan"),
    "another word": (lambda: c.check_word("n", "c", ("a", "b")), "`n` is 'a' or 'b', got 'c'"),
    "a word for words": (lambda: c.check_words("n", "a", ("a", "b")), "`n` is a list of 'a', 'b', got 'a'"),
    "no words": (lambda: c.check_words("n", [], ("a", "b")), r"got \[\]"),
    "a number for words": (lambda: c.check_words("n", 3, ("a", "b")), "got 3"),
    "an unknown word among words": (lambda: c.check_words("n", ["a", "c"], ("a", "b")), r"got \['a', 'c'\]"),
    "a list among words": (lambda: c.check_words("n", [["a"]], ("a", "b")), r"got \[\['a'\]\]"),
    "a path for a name": (lambda: c.check_name("a/b"), "must be a plain word, got 'a/b'"),
    "an empty name": (lambda: c.check_name(""), "must be a plain word, got ''"),
    "a number for a name": (lambda: c.check_name(3), "must be a plain word, got 3"),
    "one value twice": (
        lambda: c.check_different("n", [1, 1], "different seeds"),
        r"`n` are different seeds, at least one",
    ),
    "too few values": (lambda: c.check_different("n", [1], "different seeds", least=2), r"at least two, got \[1\]"),
}


@pytest.mark.parametrize("check", PASS.values(), ids=PASS)
def test_what_is_meant_passes(check):
    check()


@pytest.mark.parametrize(("check", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused_with_what_would_be_allowed(check, message):
    with pytest.raises(LotteryError, match=message):
        check()
