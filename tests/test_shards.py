"""Laws of sharded parameters: real processes over gloo under FSDP2, started as a script."""

import sys

import pytest
import torch
import yaml

from helpers.processes import TESTS, run
from helpers.states import same
from lightning_lottery import Ticket
from lightning_lottery.shards import Shards, gathered, is_sharded, local, part_like, reshard

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch 2.6 has no streams for FSDP2 on a CPU, and fails in its own hooks",
)

FSDP2 = "FSDP2 (`ModelParallelStrategy`), on one dimension of the mesh"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return folder, run_ranks(folder, 2)


def run_ranks(folder, ranks, *earlier):
    script = str(TESTS / "helpers" / "sharded.py")
    return run(sys.executable, script, str(folder), str(ranks), *map(str, earlier), timeout=1200.0)


@pytest.mark.shows(row=FSDP2, column=["PLATON", "MagnitudePruning", "MaskFreezing"], cell="yes")
def test_two_ranks_make_the_masks_and_weights_of_one_process_and_resume_exactly(two_ranks):
    _, done = two_ranks
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("ok\n") == 2


@pytest.mark.torture
def test_four_ranks_do_too_and_go_on_from_where_two_were(two_ranks, tmp_path):
    done = run_ranks(tmp_path, 4, two_ranks[0])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("ok\n") == 4


def test_a_rank_that_dies_ends_the_other_with_a_message_and_the_fit_goes_on_from_its_checkpoint(tmp_path):
    done = run(sys.executable, str(TESTS / "helpers" / "sharded_death.py"), str(tmp_path), timeout=2400.0)
    assert done.returncode == 0 and "ok\n" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.torture
def test_the_recipe_for_sharded_networks_runs_over_two_ranks(tmp_path):
    folder, overlay = TESTS.parent / "recipes" / "platon_gpt2_sharded", tmp_path / "two.yaml"
    tiny = yaml.safe_load((folder / "tiny.yaml").read_text())
    tiny["trainer"] |= {"devices": 2, "strategy": {"init_args": {"data_parallel_size": 2}}}
    overlay.write_text(yaml.safe_dump(tiny))
    command = [sys.executable, "-m", "lightning_lottery", "run", str(folder)]
    done = run(*command, "--overlay", str(overlay), "--out", str(tmp_path), timeout=600.0)
    assert done.returncode == 0 and "MEMBER: 2/2" in done.stderr + done.stdout, (
        done.stdout[-2000:] + done.stderr[-4000:]
    )
    found, trained = (
        Ticket.load(tmp_path / folder.name / "seed-0" / stage / "ticket.safetensors")
        for stage in ("01-platon", "02-ticket")
    )
    assert same(found.masks, trained.masks)


@pytest.mark.torture
def test_children_of_sharded_fits_are_judged(tmp_path):
    done = run(sys.executable, str(TESTS / "helpers" / "sharded_project.py"), str(tmp_path / "out"), timeout=600.0)
    assert done.returncode == 0 and "judged\n" in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]


def test_whole_tensors_are_what_they_are():
    weight = torch.nn.Linear(3, 2).weight
    shards = Shards({"weight": weight})
    assert local(weight) is weight and not is_sharded(weight) and not shards
    assert (shards.rank, shards.ranks) == (0, 1)
    counts = torch.tensor([1, 2])
    assert shards.sum(counts) is counts
    assert torch.equal(shards.whole("weight", weight), weight) and shards.part("weight", weight) is weight
    assert part_like(weight, whole := torch.ones(2, 3)) is whole and torch.equal(gathered(weight), weight)
    reshard(torch.nn.Linear(3, 2))
