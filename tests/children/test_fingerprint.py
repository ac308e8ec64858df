from lightning_lottery.children.fingerprint import differences, leaves, shown


def test_every_plain_value_has_a_dotted_key():
    nested = {"a": {"b": 1, "c": [2, {"d": None}]}, "e": (), 5: "f"}
    assert dict(leaves(nested)) == {"a.b": 1, "a.c[0]": 2, "a.c[1].d": None, "5": "f"}


def test_equal_fingerprints_differ_in_nothing_whatever_the_kind_of_list():
    assert list(differences({"config": {"a": [1, 2]}}, {"config": {"a": (1, 2)}})) == []


def test_a_difference_says_what_was_and_what_is():
    before = {"config": {"lr": 0.1, "steps": [1, 2]}, "inputs": {"a.ckpt": "12"}}
    now = {"config": {"lr": 0.2, "steps": [1]}, "inputs": {"a.ckpt": "34"}}
    assert list(differences(before, now)) == [
        "lr was 0.1, is 0.2",
        "steps[1] was 2, is None",
        "the file a.ckpt has changed",
    ]


def test_a_long_value_does_not_bury_what_else_has_changed():
    (difference,) = differences({"source": "x" * 5000}, {"source": "1f"})
    assert difference.startswith("source was 'xxx") and difference.endswith("...', is '1f'") and len(difference) < 150


def test_of_many_differences_the_first_five_are_shown():
    assert shown(list("abcde")) == "a; b; c; d; e"
    assert shown(list("abcdef")) == "a; b; c; d; e; ..."
