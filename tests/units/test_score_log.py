"""The log of scores: exact, bounded, appended block by block, and gone on with from where a checkpoint was written."""

import itertools
import json
import random

import fsspec
import numpy as np
import pytest
import torch

from helpers.figures import drawn
from helpers.states import same
from lightning_lottery import LotteryError
from lightning_lottery.files import location
from lightning_lottery.units.score_log import FILE, LoggedScores, ScoreLog, packed, unpacked

HEADER = {"scores": "coefficients", "layers": {"head": {"a": 2, "b": 2}, "neuron": {"c": 16}}}
UNITS = 20


def rows(*steps):
    """Scores that move a little from step to step, some of them odd."""
    chance = np.random.default_rng(0)
    walk = 1 + np.cumsum(1e-3 * chance.normal(size=(200, UNITS)), axis=0, dtype=np.float32)
    walk[7, :5] = np.nan, np.inf, -np.inf, -0.0, 1e-42
    return torch.from_numpy(walk.astype(np.float32)[[step % 200 for step in steps]])


def written(path, blocks, **arguments):
    log = ScoreLog(HEADER, **arguments)
    log.begin(path)
    for block in blocks:
        log.append(block, rows(*block))
    return log


BLOCKS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [20]]


def test_what_is_read_is_what_was_written_bit_for_bit(tmp_path):
    written(tmp_path / FILE, BLOCKS)
    scores = LoggedScores(tmp_path / FILE)
    assert scores.header == HEADER and scores.units == UNITS and scores.steps == list(itertools.chain(*BLOCKS))
    read = list(scores.rows())
    assert [steps for steps, _ in read] == BLOCKS
    assert all(same(row, rows(*steps)) for steps, row in read)


@pytest.mark.parametrize("shape", [(1, 1), (100, 3), (2, 4000)])
def test_any_bits_are_packed_and_unpacked(shape):
    bits = np.random.default_rng(0).integers(0, 2**32, size=shape, dtype=np.uint32)
    again = unpacked(packed(bits.view("<f4")), *shape, "here")
    assert (again.view("<u4") == bits).all()


def test_coefficients_that_an_optimizer_moves_take_less_than_three_bytes_each(tmp_path):
    moved = 1 + np.cumsum(1e-3 * np.random.default_rng(0).normal(size=(100, 2000)), axis=0, dtype=np.float32)
    assert len(packed(moved)) < 3 * moved.size
    noise = np.random.default_rng(0).integers(0, 2**32, size=(100, 2000), dtype=np.uint32).view("<f4")
    assert len(packed(noise)) < 4.02 * noise.size


@pytest.mark.parametrize("last", [0, 3, 4, 10, 20])
def test_a_fit_that_goes_on_drops_what_came_after_its_checkpoint_and_leaves_what_an_unbroken_one_does(last, tmp_path):
    whole = written(tmp_path / "whole", [*BLOCKS, [30, 31]])
    before = [block for block in BLOCKS if block[-1] <= last]
    state = written(tmp_path / "then", before).state_dict()
    later = written(tmp_path / FILE, [*BLOCKS, [40]])
    with open(tmp_path / FILE, "ab") as file:
        file.write(b"\x05\0\0\0\x40\0\0\0 half a block")
    assert later.state_dict() != state
    log = ScoreLog(HEADER)
    log.load_state_dict(state)
    assert log.go_on(tmp_path / FILE, [], last)
    for block in [*(block for block in BLOCKS if block[-1] > last), [30, 31]]:
        log.append(block, rows(*block))
    assert (tmp_path / FILE).read_bytes() == (
        tmp_path / "whole"
    ).read_bytes() and log.state_dict() == whole.state_dict()


def test_where_a_fit_goes_on_in_another_folder_the_log_beside_the_checkpoint_is_copied_until_then(tmp_path):
    state = written(tmp_path / "old" / FILE, BLOCKS[:2]).state_dict()
    written(tmp_path / "old" / FILE, BLOCKS)
    log = ScoreLog(HEADER)
    log.load_state_dict(state)
    assert log.go_on(tmp_path / "new" / FILE, [tmp_path / "nowhere", tmp_path / "old" / FILE], 4)
    assert LoggedScores(tmp_path / "new" / FILE).steps == [1, 2, 3, 4]
    assert LoggedScores(tmp_path / "old" / FILE).steps == list(itertools.chain(*BLOCKS))


@pytest.mark.parametrize("kind", ["missing", "of another fit", "with another header", "without its end", "garbage"])
def test_a_log_that_is_not_the_fits_begins_anew(kind, tmp_path):
    state = written(tmp_path / FILE, BLOCKS).state_dict()
    if kind == "missing":
        (tmp_path / FILE).unlink()
    elif kind == "of another fit":
        written(tmp_path / FILE, [[1], [2]])
    elif kind == "with another header":
        ScoreLog({**HEADER, "scores": "weights"}).begin(tmp_path / FILE)
    elif kind == "without its end":
        (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1])
    else:
        (tmp_path / FILE).write_bytes(b"garbage")
    log = ScoreLog(HEADER)
    log.load_state_dict(state)
    assert not log.go_on(tmp_path / FILE, [], 20)
    log.append([21, 22], rows(21, 22))
    assert LoggedScores(tmp_path / FILE).steps == [21, 22]
    again = ScoreLog(HEADER)  # a checkpoint of the new fit finds it
    again.load_state_dict(log.state_dict())
    assert again.go_on(tmp_path / FILE, [], 22)


def test_it_ends_before_it_is_larger_than_it_may_be_and_says_so_also_after_a_resume(tmp_path):
    log = written(tmp_path / FILE, [[step] for step in range(1, 200)], most=2000)
    assert 1800 < (tmp_path / FILE).stat().st_size <= 2000 and log.why_ended == "has reached 0 MiB"
    last = LoggedScores(tmp_path / FILE).steps[-1]
    again = ScoreLog(HEADER)
    again.load_state_dict(log.state_dict())
    assert again.go_on(tmp_path / FILE, [], 199) and again.why_ended
    again.append([200], rows(200))
    assert LoggedScores(tmp_path / FILE).steps[-1] == last


def test_a_disk_that_is_full_ends_the_log_and_not_the_fit(tmp_path):
    log = written(tmp_path / "folder" / FILE, BLOCKS)
    (tmp_path / "folder" / FILE).unlink()
    (tmp_path / "folder" / FILE).mkdir()
    log.append([30], rows(30))
    assert log.why_ended.startswith("could not be written: ")
    log.append([31], rows(31))


def test_under_a_url_it_appears_when_the_fit_ends(tmp_path):
    target = location(f"memory://{tmp_path.name}/{FILE}")
    log = written(target, BLOCKS)
    assert LoggedScores(log._path).steps[-1] == 20
    log.end(), log.end()
    here = written(tmp_path / FILE, BLOCKS)
    cat = fsspec.filesystem("memory").cat_file
    assert cat(f"{tmp_path.name}/{FILE}") == (tmp_path / FILE).read_bytes()
    for going_on in (log, here):  # as a second fit of the same Trainer does
        going_on.append([30], rows(30))
    log.end()
    assert cat(f"{tmp_path.name}/{FILE}") == (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("ends", [True, False])
def test_under_a_url_no_file_is_left_here_however_the_fit_ends(tmp_path, ends, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = written(location(f"memory://{tmp_path.name}/{FILE}"), BLOCKS)
    assert len([*tmp_path.iterdir()]) == 1
    if ends:
        log.end()
    del log
    assert not [*tmp_path.iterdir()]


def test_nothing_is_written_where_nothing_was_begun(tmp_path):
    log = ScoreLog(HEADER)
    log.append([1], rows(1))
    log.end()
    assert log.read() is None and list(tmp_path.iterdir()) == []


def test_of_a_log_that_was_cut_off_the_whole_blocks_are_read(tmp_path):
    written(tmp_path / FILE, BLOCKS)
    content = (tmp_path / FILE).read_bytes()
    seen = set()
    for end in range(len(content) - 400, len(content)):
        (tmp_path / FILE).write_bytes(content[:end])
        scores = LoggedScores(tmp_path / FILE)
        seen.add(len(scores.blocks))
        for steps, row in scores.rows():
            assert same(row, rows(*steps))
    assert seen >= {2, 3}


def test_whatever_is_no_log_is_refused_or_read_as_far_as_it_is_one(tmp_path):
    written(tmp_path / FILE, BLOCKS)
    content, chance = (tmp_path / FILE).read_bytes(), random.Random(0)
    with pytest.raises(LotteryError, match="cannot be read"):
        LoggedScores(tmp_path / "nowhere")
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 2, 8))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        (tmp_path / FILE).write_bytes(damaged)
        try:
            list(LoggedScores(tmp_path / FILE).rows())
        except LotteryError:
            continue
    for layers in ({"head": {"a": 0}}, {"head": {"a": 10**9}}, {"head": 3}, [], None, {"head": {"a": "x"}}):
        head = json.dumps({"layers": layers}).encode()
        body = content[content.index(b"}}}") + 3 :]
        (tmp_path / FILE).write_bytes(
            content[: content.index(b"{") - 4] + len(head).to_bytes(4, "little") + head + body
        )
        with pytest.raises(LotteryError, match="is no log of scores|is damaged"):
            list(LoggedScores(tmp_path / FILE).rows())


def test_a_sample_has_the_first_and_the_last_block_and_not_more_than_was_asked_for(tmp_path):
    written(tmp_path / FILE, [[2 * n, 2 * n + 1] for n in range(1, 50)])
    scores = LoggedScores(tmp_path / FILE)
    steps, row = scores.sample(10)
    assert len(steps) == 10 and steps[0] == 3 and steps[-1] == 99 and same(row, rows(*steps))
    assert len(scores.sample()[0]) == 49
    heads, neurons, *_ = drawn(scores.figure())
    assert len(heads.lines) == 4 and len(neurons.lines) == 16


def test_a_log_of_nothing_yet_has_a_figure(tmp_path):
    written(tmp_path / FILE, [])
    scores = LoggedScores(tmp_path / FILE)
    assert scores.steps == [] and scores.sample()[0] == [] and drawn(scores.figure())
