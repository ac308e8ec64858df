import pytest

from lightning_lottery.children.parser_words import in_plain_words


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("Parser key \"model\": Problem with given class_path 'mine.Net': no.", "`model`: mine.Net: no."),
        ("Expected a <class 'collections.abc.Sequence'>.", "expected Sequence."),
        ("Expected a dot import path string: PLATTON.", "there is no class 'PLATTON'."),
        ("There is no recipe 'a'.", "There is no recipe 'a'."),
    ],
)
def test_the_parser_s_words_for_itself_are_left_out(sentence, plain):
    assert in_plain_words(sentence) == plain
