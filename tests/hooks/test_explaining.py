"""What a callback is about to do, in tables of words and as Markdown."""

import markdown
from torch import nn

from lightning_lottery.functional.schedules import Constant, Cubic
from lightning_lottery.hooks.explaining import NO_SPEED, Explanation, Sheet, parameters_sheet, schedule_sheet
from lightning_lottery.scope import Scope, named_parameters, ties


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(30, 30), nn.Linear(30, 30), nn.Linear(30, 2)
        self.b.weight = self.a.weight


def test_every_parameter_has_a_row_that_says_whether_it_is_in_scope_or_why_not():
    module, scope = Tied(), Scope(exclude=("re:^(head|tail)\\.",))
    sheet = parameters_sheet("PLATON", scope.explain(module), {"a.weight": module.a.weight}, ties(module))
    assert sheet.title == "PLATON can remove 900 of the module's 1,022 weights:"
    rows = {row[0]: row[1:] for row in sheet.rows}
    assert rows["a.weight (tied: b.weight)"] == ("Linear", "30 x 30", "900", "yes")
    assert rows["b.bias"] == ("Linear", "30", "30", "no: bias")
    assert rows["head.weight"][-1] == "no: excluded by 're:^(head|tail)\\.'"
    assert len(rows) == len(named_parameters(module))


def test_a_schedule_is_shown_at_a_dozen_steps_from_its_begin_to_its_end():
    masked = {"a": nn.Parameter(nn.Linear(10, 10).weight)}
    steps = [row[0] for row in schedule_sheet(Cubic(0.8, 7, 1000), 10, masked).rows]
    assert steps[:3] == ["7", "10", "100"] and steps[-1] == "1000" and len(steps) <= 13
    assert schedule_sheet(Constant(0.8, begin=5), 1, masked).rows == [("5", "80.00 %", "20")]


def test_as_markdown_every_cell_is_the_words_that_it_was_whatever_signs_are_in_them():
    odd = "no: excluded by 're:(^|\\.)((\\w*_)?(classifier|pooler)|(lm_)?head)(\\.|$)' <b> & [x](y) `z`"
    sheet = Sheet("2 of 3", ("parameter", "in scope"), ("in scope",), [("a_b*c*", odd)])
    explanation = Explanation("PLATON", sheet, ["A sentence."], Sheet("Cubic", ("n",), ("n",), [("1",)]), "Memory.")
    text = explanation.markdown()
    for words in ("## PLATON", "A sentence.", "Memory.", NO_SPEED, "**Cubic**"):
        assert words in text
    # As TensorBoard renders it.
    html = markdown.markdown(text, extensions=["markdown.extensions.tables", "markdown.extensions.fenced_code"])
    cells = [line.strip() for line in html.splitlines() if line.strip().startswith("<td")]
    assert [read(cell) for cell in cells] == ["1", "a_b*c*", odd]


def read(cell):
    """The words that a browser shows of a table's cell."""
    from html import unescape

    inner = cell[cell.index(">") + 1 : cell.rindex("</td>")]
    assert "<" not in inner  # no sign became an element
    return unescape(inner)
