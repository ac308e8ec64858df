"""Which children a sweep asks for next; what is done is written by hand."""

import json
from dataclasses import replace

import pytest

from helpers.children import ALPHAS, CONDITIONS, finished, lines_report
from helpers.factories import closures
from lightning_lottery import Constant, LotteryError, MagnitudePruning
from lightning_lottery.children.options import SnapshotOptions
from lightning_lottery.connectivity.judging import Judging
from lightning_lottery.experiments.plan import child_of
from lightning_lottery.experiments.siblings import Family
from lightning_lottery.experiments.sweep_report import SweepReport
from lightning_lottery.experiments.sweep_search import PARENT, Cell, Searches, children_in, with_steps_before
from lightning_lottery.functional.search import Bisection, Grid

PROJECT = closures()
HIGH, LOW = (0.25, 0.26, 0.27), (0.001, 0.002, 0.0015)
GRID = Grid((0, 4, 8))


def parent_child(folder, seed, steps):
    options = SnapshotOptions(tuple(steps))
    return child_of(PROJECT.with_seed(seed), folder / f"parent-{seed}" / PARENT, "fit", None, options=options)


def searches(folder, search=GRID, networks=("dense",), parents=(0, 1), seeds=(1, 2, 3), threshold=0.02):
    """A sweep's searches, one for each network, of which all but the dense one are pruned at the step."""
    family = Family(PROJECT, Judging(threshold=threshold, alphas=ALPHAS))

    def cell(network, parent, step):
        at = folder / f"parent-{parent}" / f"{network}-step-{step}"
        begin = str(folder / f"parent-{parent}" / PARENT / f"snapshots/step={step}.ckpt")
        pruner = None if network == "dense" else lambda: MagnitudePruning(Constant(0.5, begin=0))
        return Cell(network, parent, step, family.siblings(at, begin, seeds, {}, pruner=pruner), {})

    return Searches(
        searches={network: search for network in networks},
        snapshots={parent: folder / f"parent-{parent}" / PARENT / "snapshots" for parent in parents},
        parents=[parent_child(folder, parent, search.steps) for parent in parents],
        children=len(seeds),
        empty=SweepReport(threshold, {}),
        cell=cell,
    )


def judged(cells, *barriers):
    """Mark all children of cells as done, with these barriers between them."""
    for cell in cells:
        for child in [child for wave in cell.siblings.waves for child in wave] + [cell.siblings.lines]:
            finished(child)
        lines_report(*barriers).save(cell.siblings.lines.folder / "report.json")


def steps_of(waves):
    """The steps whose children are in the waves after the parents'."""
    return sorted({int(child.folder.parent.name.rpartition("-")[2]) for wave in waves[1:] for child in wave})


def test_a_grid_asks_for_all_at_once_in_waves_that_use_files_of_those_before_only(tmp_path):
    waves = searches(tmp_path, networks=("dense", "magnitude")).waves()
    assert [[child.command for child in wave] for wave in waves] == [
        ["fit"] * 2,
        ["start"] * 2 * 3,
        ["fit"] * 2 * 2 * 3 * 3,
        ["lines"] * 2 * 2 * 3,
    ]
    written = []
    for wave in waves:
        for child in wave:
            inside = [path for path in child.inputs() if path.startswith(str(tmp_path))]
            assert all(any(path.startswith(f"{folder}/") for folder in written) for path in inside)
        written += [child.folder for child in wave]
    assert steps_of(waves) == [0, 4, 8]


def test_nothing_but_the_parents_is_asked_for_when_everything_is_done(tmp_path):
    sweep = searches(tmp_path)
    cells = sweep.next_cells(sweep.report([]))
    judged(cells, *LOW)
    assert sweep.next_cells(sweep.report(cells)) == []
    assert sweep.waves() == [list(sweep.parents)]


def test_a_bisection_asks_for_both_ends_and_for_the_middle_only_when_all_their_lines_are_there(tmp_path):
    sweep = searches(tmp_path, Bisection((0, 1, 2, 3, 4, 5, 6, 7, 8), precision=0, checks=0))
    assert steps_of(sweep.waves()) == [0, 8]
    ends = sweep.next_cells(sweep.report([]))
    assert [(cell.step, cell.parent) for cell in ends] == [(0, 0), (0, 1), (8, 0), (8, 1)]
    judged(ends[:2], *HIGH)
    judged(ends[2:3], *LOW)
    assert steps_of(sweep.waves()) == [0, 8]
    judged(ends[3:], *LOW)
    assert steps_of(sweep.waves()) == [4]
    assert [cell.step for cell in sweep.next_cells(sweep.report(ends))] == [4, 4]


def test_each_network_has_its_own_search(tmp_path):
    sweep = searches(tmp_path, Bisection((0, 2, 4), precision=0, checks=0), ("dense", "magnitude"), parents=(0,))
    ends = sweep.next_cells(sweep.report([]))
    judged([cell for cell in ends if (cell.network, cell.step) != ("dense", 0)], *LOW)
    judged([cell for cell in ends if (cell.network, cell.step) == ("dense", 0)], *HIGH)
    assert [(cell.network, cell.step) for cell in sweep.next_cells(sweep.report(ends))] == [("dense", 2)]


def test_a_report_lists_steps_in_order_whatever_was_looked_at_first(tmp_path):
    sweep = searches(tmp_path)
    cells = sweep.next_cells(sweep.report([]))
    judged(cells, *LOW)
    report = sweep.report(reversed(cells))
    assert list(report.reports["dense"]) == [0, 4, 8]
    assert report.reports["dense"][4].keys() == {0, 1} and report.reports["dense"][4][1] == lines_report(*LOW)
    assert cells[1].name == "dense, parent 1, step 0"


def test_lines_that_are_judged_otherwise_now_are_asked_for_again_and_no_child_is_trained_for_it(tmp_path):
    before = searches(tmp_path)
    judged(before.next_cells(before.report([])), *LOW)
    now = searches(tmp_path, threshold=0.01)
    lines = now.waves()[-1]
    assert [child.command for child in lines] == ["lines"] * 6 and not any(child.folder.exists() for child in lines)
    assert all(child.is_done for child in now.waves()[1])


def test_what_it_can_cost_at_most_is_said_beforehand(tmp_path):
    assert searches(tmp_path).most == 3 * 2 * 3
    assert searches(tmp_path, networks=("dense", "magnitude")).announcement() == (
        "At most 36 trainings of children, beside the parents' 2: 3 of each parent at up to 3 of 3 steps, for dense, "
        "magnitude."
    )
    pair = replace(searches(tmp_path, parents=(0,), seeds=(1, 2)), parents=[])
    assert pair.announcement() == (
        "At most 6 trainings of children: 2 of each parent at up to 3 of 3 steps, for dense. One pair gives estimates "
        "and no verdict: add a child, or parents."
    )


@pytest.mark.parametrize(("before", "stays"), [((0, 4), False), ((0, 4, 8), True), ((0, 4, 8, 10), True)])
def test_a_parent_that_was_saved_at_fewer_steps_is_trained_again_and_no_other(tmp_path, before, stays):
    finished(parent_child(tmp_path, 0, before))
    searches(tmp_path).discard_shorter_parents()
    assert (tmp_path / "parent-0" / PARENT).exists() == stays


def test_a_parent_that_was_saved_at_more_steps_keeps_them(tmp_path):
    child = parent_child(tmp_path, 0, (0, 4))
    assert with_steps_before(child) == child
    finished(parent_child(tmp_path, 0, (0, 2, 8)))
    assert with_steps_before(child) == replace(child, options=SnapshotOptions((0, 2, 4, 8)))


def test_children_that_are_there_are_listed_in_the_order_of_dependence(tmp_path):
    sweep = searches(tmp_path, networks=("dense", "magnitude"), parents=(0,))
    for wave in reversed(sweep.waves()):
        for child in wave:
            child.prepare()
    kinds = ["parent" if child.folder.name == PARENT else child.command for child in children_in(tmp_path)]
    assert kinds == ["parent"] + ["start"] * 3 + ["fit"] * 18 + ["lines"] * 6
    assert children_in(tmp_path / "none") == []


def parents_end_at(sweep, step):
    for child in sweep.parents:
        finished(child)
        (child.folder / "conditions.json").write_text(json.dumps({**CONDITIONS, "end_step": step}))


def test_a_step_at_which_a_parent_ends_or_was_not_saved_is_refused(tmp_path):
    sweep = searches(tmp_path)
    parents_end_at(sweep, 8)
    with pytest.raises(LotteryError, match="Parent 0 ends at step 8: children of step 8 would train no step"):
        sweep.check_snapshots()
    parents_end_at(sweep, 9)
    for folder in sweep.snapshots.values():
        folder.mkdir()
        for step in (0, 4, 8):
            (folder / f"step={step}.ckpt").touch()
    sweep.check_snapshots()
    for step in (0, 8):
        (sweep.snapshots[1] / f"step={step}.ckpt").unlink()
    with pytest.raises(LotteryError, match="Parent 1 has no snapshot of step 0, 8 in"):
        sweep.check_snapshots()
