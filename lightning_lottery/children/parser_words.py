"""What jsonargparse says, in the words of somebody who does not know it; nothing slow is imported for it."""

import re

PLAIN = {
    r'Parser key "([\w.]+)":': r"`\1`:",
    r"Problem with given class_path '([\w.]+)':": r"\1:",
    r"Expected a <class '(?:[\w.]+\.)?(\w+)'>": r"expected \1",
    r"Expected a dot import path string: (\w+)": r"there is no class '\1'",
}
"""What the parser says, and what that means (jsonargparse 4.53)."""


def in_plain_words(sentence: str) -> str:
    """The parser's sentence without its words for itself.

    Example:
        >>> in_plain_words("Expected a <class 'int'>. Got value: x")
        'expected int. Got value: x'
    """
    for pattern, words in PLAIN.items():
        sentence = re.sub(pattern, words, sentence)
    return sentence
