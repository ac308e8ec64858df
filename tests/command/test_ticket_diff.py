import json

import pytest
import torch

from lightning_lottery import Ticket
from lightning_lottery.command.main import main
from lightning_lottery.command.ticket_diff import compare_pairs
from lightning_lottery.errors import LotteryError


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.fixture
def tickets(here):
    """Two tickets of one layer, one of which has units and another layer as well."""
    Ticket({"a": mask([1, 1, 0, 0]), "b": mask([1, 0])}).save("one")
    Ticket({"a": mask([1, 0, 1, 0])}, units={"heads": mask(1, 0, 0)}).save("two")


def shown(capsys, *words):
    main(["ticket", "diff", *words])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_diff_tells_what_both_keep_beside_what_chance_would_give(tickets, capsys):
    text = shown(capsys, "one", "two")
    assert "a 2 2 1 33.3% 33.3% 1" in text
    assert "b is only in the first." in text and "units of heads is only in the second." in text
    text = shown(capsys, "one", "one")
    # Two of the six ways to draw two of four lie as far from one in both. Of all, by chance: 1.5 of 6 - 1.5.
    assert "a 2 2 2 100.0% 33.3% 0.33" in text and "all 3 3 3 100.0% 33.3%" in text


def test_several_are_compared_two_by_two(tickets, here, capsys):
    masks = {name: torch.rand(40, 50) < 0.1 for name in "xyz"}
    for name in masks:
        Ticket({"w": masks[name], "v": mask(1, 0)}).save(name)
    text = shown(capsys, "x", "y", "z", "--out", "pairs.json")
    written = json.loads((here / "pairs.json").read_text())
    assert "Means over the 3 pairs of 3 tickets" in text and written["w"]["pairs"] == 3
    both = [int((masks[a] & masks[b]).sum()) for a, b in ("xy", "xz", "yz")]
    either = [int((masks[a] | masks[b]).sum()) for a, b in ("xy", "xz", "yz")]
    assert written["w"]["overlap"] == pytest.approx(sum(b / e for b, e in zip(both, either, strict=True)) / 3)
    assert written["v"]["overlap"] == 1 and written["v"]["times_chance"] == 2
    with pytest.raises(SystemExit):
        main(["ticket", "diff", "one", "two", "x"])
    assert "These 3 tickets have no layer in common." in capsys.readouterr().err


def test_weights_that_go_with_their_units_are_not_counted_as_drawn_one_by_one(here, capsys):
    heads = {"one": mask(1, 1, 0, 0), "two": mask(1, 0, 1, 0), "three": mask(0, 1, 1, 0)}
    for name, kept in heads.items():
        Ticket({"o": kept.repeat_interleave(8).expand(32, 32)}, {"o": kept}).save(name)
    text = shown(capsys, "one", "two")
    assert "units kept" in text and "units of o 2 2 1 33.3% 33.3% 1 " in text and "512" not in text
    assert "these alone are compared" in text and "only in" not in text
    text = shown(capsys, *heads, "--out", "pairs.json")
    assert "units that both keep" in text and [*json.loads((here / "pairs.json").read_text())] == ["units of o"]


def test_of_pairs_only_those_beyond_chance_are_counted():
    drawn = torch.Generator().manual_seed(0)
    a, b = ({"w": torch.rand(100, 100, generator=drawn) < 0.1} for _ in range(2))
    found = compare_pairs((a, a, b))
    assert found["pairs"] == 3 and found["beyond_chance"] == 1 and found["most"] > 9 > 2 > found["least"]
    with pytest.raises(LotteryError, match="differ in shape"):
        compare_pairs((a, {"w": mask(1)}))
