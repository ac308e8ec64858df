import errno
import importlib.metadata
import json
import math
import os
import pickle
import subprocess
from contextlib import contextmanager
from copy import deepcopy
from functools import reduce
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save as safetensors
from torch import nn
from torch.nn.utils import parametrizations, prune

from helpers.states import same
from lightning_lottery import files
from lightning_lottery import ticket as module
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.functional import Coupling, layer_counts, permute
from lightning_lottery.scope import Scope, ties
from lightning_lottery.ticket import VERSION, Layer, Misfits, Ticket, ticket_of, versions

SHAPES = ((), (1,), (0,), (2, 0), (3,), (8,), (9,), (3, 5), (2, 1, 7, 3))


def mask(*bits):
    return torch.tensor(bits, dtype=torch.bool)


def random_mask(*shape, density=0.5, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density


def equal_tickets(a, b):
    units = {name: b.units[name] for name in a.units if name in b.units}  # their order is not kept
    return (
        same(a.masks, b.masks)
        and len(a.units) == len(b.units)
        and same(a.units, units)
        and (a.ties, a.provenance) == (b.ties, b.provenance)
    )


def full_ticket():
    tied = mask([True, False], [False, True])
    return Ticket(
        {"z.weight": tied, "a.weight": random_mask(3, 5), "b.weight": tied},
        units={"heads": mask(True, False, True), "neurons": torch.ones(0).bool()},
        ties={"b.weight": "z.weight"},
        provenance={"method": "PLATON", "sparsity": 0.5, "step": 3, "seed": None, "versions": {"torch": "2"}, "ü": [1]},
    )


class Attention(nn.Module):
    """Two tied layers, another one, and a buffer."""

    def __init__(self, tied=True):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        if tied:
            self.second.weight = self.first.weight
        self.out = nn.Linear(3, 2)
        self.register_buffer("attn_mask", torch.ones(3, 3))
        self.register_buffer("scratch", torch.ones(1), persistent=False)


def tied_ticket(seed=0):
    net = Attention()
    masks = {"first.weight": random_mask(3, 3, seed=seed), "out.weight": random_mask(2, 3, seed=seed + 1)}
    return ticket_of(masks, ties(net), sum(p.numel() for p in net.parameters()), {"method": "test"})


masks_of_any_shape = st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
    st.tuples(st.sampled_from(SHAPES), st.floats(0, 1), st.integers(0, 9)).map(
        lambda drawn: random_mask(*drawn[0], density=drawn[1], seed=drawn[2])
    ),
    max_size=4,
)


@settings(deadline=None)
@given(
    masks_of_any_shape, masks_of_any_shape, st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3))
)
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, masks, units, provenance):
    if not masks and not units:
        masks = {"w": mask(True)}
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    ticket = Ticket(masks, units=units, provenance=provenance)
    ticket.save(path)
    assert equal_tickets(Ticket.load(path), ticket)


def test_ties_units_order_and_provenance_survive_a_round_trip(tmp_path):
    full_ticket().save(tmp_path / "t")
    loaded = Ticket.load(str(tmp_path / "t"))
    assert equal_tickets(loaded, full_ticket())
    assert list(loaded.masks) == ["z.weight", "a.weight", "b.weight"]
    assert loaded.masks["b.weight"] is loaded.masks["z.weight"]


def test_a_mask_that_is_not_contiguous_is_saved_in_its_own_order(tmp_path):
    views = {"t": random_mask(4, 6).t(), "strided": random_mask(9)[::2], "expanded": mask(True).expand(5)}
    Ticket(views).save(tmp_path / "t")
    assert same(Ticket.load(tmp_path / "t").masks, views)


def test_a_loaded_ticket_saves_to_the_same_content_and_folders_are_made(tmp_path):
    full_ticket().save(tmp_path / "deep" / "er" / "t")
    Ticket.load(tmp_path / "deep" / "er" / "t").save(tmp_path / "again")
    assert equal_tickets(Ticket.load(tmp_path / "again"), full_ticket())


def test_equal_tickets_are_equal_bytes(tmp_path):
    files = set()
    for number in range(20):
        full_ticket().save(tmp_path / f"{number}")
        files.add((tmp_path / f"{number}").read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("entries", [8, 80_000, 80_001])
def test_a_ticket_takes_a_bit_for_each_entry_and_no_more_than_a_kilobyte_besides(tmp_path, entries):
    Ticket({"w": random_mask(entries)}).save(tmp_path / "t")
    packed = math.ceil(entries / 8)
    assert packed < (tmp_path / "t").stat().st_size <= packed + 1024


def test_a_tied_mask_is_written_once(tmp_path):
    big = random_mask(8000)
    Ticket({"a": big}).save(tmp_path / "one")
    Ticket({"a": big, "b": big}, ties={"b": "a"}).save(tmp_path / "two")
    assert (tmp_path / "two").stat().st_size < (tmp_path / "one").stat().st_size + 100


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "t"
    Ticket({"w": mask(True, False, True)}, provenance={"step": 3}).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def load_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("changed") / "t"

    def load(content):
        path.unlink(
            missing_ok=True
        )  # ext4 forces a file that is cut and rewritten to the disk: slow, thousands of times
        path.write_bytes(content)
        return Ticket.load(path)

    return load


def survivors(small_file, load_bytes, values):
    """Where a byte can be replaced by one of `values(old)` without a LotteryError, and what comes of it."""
    outcomes, original = [], load_bytes(small_file)
    for index, old in enumerate(small_file):
        for new in values(old):
            changed = bytearray(small_file)
            changed[index] = new
            try:
                loaded = load_bytes(bytes(changed))
            except LotteryError:
                continue
            except Exception as error:
                outcome = repr(error)
            else:
                outcome = "the same" if equal_tickets(loaded, original) else "another"
            outcomes.append((index, chr(old), chr(new), outcome))
    return outcomes


def test_every_flipped_bit_is_noticed(small_file, load_bytes):
    assert load_bytes(small_file).provenance == {"step": 3}
    assert survivors(small_file, load_bytes, lambda old: [old ^ (1 << bit) for bit in range(8)] + [old ^ 0xFF]) == []


def test_every_byte_replaced_by_one_that_a_header_could_hold_is_noticed_or_says_the_same(small_file, load_bytes):
    known = b'"{[:,-019IFBe \n'  # of what JSON and dtypes are made: a blank for a blank says the same
    outcomes = survivors(small_file, load_bytes, lambda old: set(known) - {old})
    assert [survivor for survivor in outcomes if survivor[-1] != "the same"] == []


def test_every_truncation_is_noticed_and_so_is_anything_appended(small_file, load_bytes):
    for length in range(len(small_file)):
        with pytest.raises(LotteryError, match="not a ticket, or a truncated one"):
            load_bytes(small_file[:length])
    for more in (b"\0", b" ", small_file):
        with pytest.raises(LotteryError):
            load_bytes(small_file + more)


def rewritten(content, tmp_path, **changes):
    """A ticket's file with another header, and a digest that fits it."""
    (tmp_path / "source").write_bytes(content)
    with safe_open(tmp_path / "source", framework="numpy") as file:
        header = json.loads(json.loads(file.metadata()[module.FORMAT])["ticket"])
        packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = {name: value for name, value in (header | changes).items() if value is not ...}
    text = json.dumps(header)
    return safetensors(packed, {module.FORMAT: json.dumps({"digest": module._digest(text, packed), "ticket": text})})


def test_a_newer_format_is_refused_with_both_versions_and_the_own_one_is_read(small_file, load_bytes, tmp_path):
    assert load_bytes(rewritten(small_file, tmp_path)).masks["w"].tolist() == [True, False, True]
    with pytest.raises(LotteryError, match=f"format version {VERSION + 1}.*up to {VERSION}: upgrade"):
        load_bytes(rewritten(small_file, tmp_path, version=VERSION + 1, shapes="of a future kind"))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": ...},
        {"version": "1"},
        {"version": None},
        {"shapes": ...},
        {"shapes": {"parameter/w": [100]}},
        {"shapes": {"parameter/w": [-1]}},
        {"shapes": {"parameter/w": ["3", 10**400]}},
        {"shapes": {"parameter/v": [3]}},
        {"order": ["w", "v"]},
        {"ties": ...},
        {"ties": {"v": "u"}, "order": ["w", "v"]},
        {"provenance": ...},
        {"provenance": [1]},
        {"provenance": "PLATON"},
        {"provenance": reduce(lambda inner, _: {"found_by": inner}, range(300), {})},
        {"version": math.nan},
        {"version": 0},
        {"shapes": {"parameter/w": [3] + [1] * 64}},
        {"shapes": {"parameter/w": [3.0]}},
        {"shapes": {"parameter/w": [True, 3]}},
        {"shapes": {"parameter/w": {"3": 3}}},
        {"order": "ww"},
        {"order": {"w": 1, "v": 2}},
    ],
    ids=str,
)
def test_a_header_that_says_nonsense_is_refused_in_a_sentence(small_file, load_bytes, tmp_path, changes):
    with pytest.raises(LotteryError):
        load_bytes(rewritten(small_file, tmp_path, **changes))


def test_shapes_beyond_all_bounds_and_nesting_outside_are_refused_too(tmp_path, load_bytes):
    header = {"version": 1, "order": ["w"], "ties": {}, "provenance": {}}
    empty = {"parameter/w": np.zeros(0, np.uint8)}
    text = json.dumps(header | {"shapes": {"parameter/w": [2**62, 2**62, 0]}})
    deep = "[" * 100_000
    for outer in (json.dumps({"digest": module._digest(text, empty), "ticket": text}), deep, json.dumps(deep)):
        with pytest.raises(LotteryError):
            load_bytes(safetensors(empty, {module.FORMAT: outer}))
    text = json.dumps(header | {"shapes": {"parameter/w": [2**40, 0]}})
    outer = json.dumps({"digest": module._digest(text, empty), "ticket": text})
    assert load_bytes(safetensors(empty, {module.FORMAT: outer})).sparsity == 0


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_not_a_ticket_is_refused_and_never_unpickled(tmp_path, load_bytes):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "works"))).close()
    assert (tmp_path / "works").exists()
    torch.save({"state_dict": Bomb(tmp_path / "bang")}, tmp_path / "checkpoint")
    files = [pickle.dumps(Bomb(tmp_path / "bang")), (tmp_path / "checkpoint").read_bytes(), b"", b"{}", bytes(100)]
    for content in files:
        with pytest.raises(LotteryError, match="not a ticket"):
            load_bytes(content)
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "other", "ticket": "{}"}])
def test_other_safetensors_are_not_tickets(load_bytes, metadata):
    with pytest.raises(LotteryError, match="is a safetensors file, but not a ticket"):
        load_bytes(safetensors({"w": np.zeros(3, dtype=np.uint8)}, metadata))


@pytest.mark.parametrize("header", ["", "no json", "[]", "{}", "1", "null", '{"ticket": null}', '{"ticket": "{}"}'])
def test_a_ticket_without_a_header_is_refused(load_bytes, header):
    with pytest.raises(LotteryError, match="is not what was written"):
        load_bytes(safetensors({"w": np.zeros(3, dtype=np.uint8)}, {module.FORMAT: header}))


def test_a_missing_file_and_a_folder_are_refused_by_their_path(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(LotteryError, match="There is no ticket at") as refusal:
            Ticket.load(path)
        assert str(path) in str(refusal.value)


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def disk_full_when_opening(monkeypatch):
    monkeypatch.setattr(files, "open", no_space, raising=False)


def disk_full_when_syncing(monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)


def disk_full_when_renaming(monkeypatch):
    monkeypatch.setattr(os, "replace", no_space)


def disk_full_when_writing(monkeypatch):
    @contextmanager
    def half(path, mode):
        with open(path, mode) as file:
            write = lambda content: file.write(content[: len(content) // 2]) and no_space()  # noqa: E731
            yield SimpleNamespace(write=write, fileno=file.fileno)

    monkeypatch.setattr(files, "open", half, raising=False)


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "failing", [disk_full_when_opening, disk_full_when_writing, disk_full_when_syncing, disk_full_when_renaming]
)
def test_a_full_disk_is_one_sentence_leaves_nothing_behind_and_an_old_ticket_whole(tmp_path, monkeypatch, failing):
    path = tmp_path / "t"
    full_ticket().save(path)
    before = files_in(tmp_path)
    with monkeypatch.context() as patch:
        failing(patch)
        for target in (path, tmp_path / "new"):
            with pytest.raises(LotteryError) as refusal:
                Ticket({"w": mask(True)}).save(target)
            assert str(refusal.value) == f"The ticket '{target}' could not be written: No space left on device."
    assert files_in(tmp_path) == before
    assert equal_tickets(Ticket.load(path), full_ticket())
    Ticket({"w": mask(True)}).save(path)
    assert list(Ticket.load(path).masks) == ["w"]
    assert list(files_in(tmp_path)) == ["t"]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 16 kB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no `mount` here")
    if mount.returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_keeps_the_old_ticket(tiny_disk):
    path = tiny_disk / "t"
    full_ticket().save(path)
    before = files_in(tiny_disk)
    with pytest.raises(LotteryError, match="could not be written: No space left on device."):
        Ticket({"w": random_mask(8 * 40_000)}).save(path)
    assert files_in(tiny_disk) == before


def test_a_provenance_that_could_not_be_read_again_is_not_written(tmp_path):
    deep = reduce(lambda inner, _: {"found_by": inner}, range(300), {})
    for provenance, words in (deep, "nested too deep"), ({"a": {1, 2}}, "not JSON serializable"):
        with pytest.raises(LotteryError, match=f"plain JSON values: .*{words}"):
            Ticket({"w": torch.tensor([True])}, provenance=provenance).save(tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "target", ["", "file/t", "file/deeper/t", "x" * 250], ids=["folder", "in a file", "deeper", "long"]
)
def test_a_path_that_cannot_be_written_is_one_sentence(tmp_path, target):
    (tmp_path / "file").write_text("here")
    with pytest.raises(LotteryError, match="could not be written"):
        full_ticket().save(tmp_path / target)
    assert files_in(tmp_path) == {"file": b"here"}


def test_a_ticket_needs_a_mask_and_every_mask_is_bool():
    with pytest.raises(LotteryError, match="without a mask"):
        Ticket({})
    assert Ticket({}, units={"heads": mask(True)}).masks == {}
    for dtype in (torch.uint8, torch.float32):
        with pytest.raises(LotteryError, match=f"'odd' is {dtype}, not a bool tensor"):
            Ticket({"w": mask(True), "odd": torch.ones(1, dtype=dtype)})
        with pytest.raises(LotteryError, match="'heads'"):
            Ticket({"w": mask(True)}, units={"heads": torch.ones(1, dtype=dtype)})


def test_applying_sets_what_is_removed_to_exactly_zero_and_nothing_else():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, math.inf, math.nan, -math.inf], [-0.0, -5.0, math.nan, 1e-45]]))
    bias = layer.bias.detach().clone()
    Ticket({"weight": mask([True, False, False, False], [False, True, True, True])}).apply(layer)
    expected = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, -5.0, math.nan, 1e-45]])
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=0, atol=0, equal_nan=True)
    assert not layer.weight.detach()[0].signbit().any()
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_applying_happens_in_place_twice_is_once_and_the_weights_go_on_training(dtype):
    net = Attention().to(dtype)
    before = {name: param for name, param in net.named_parameters()}
    tied_ticket().apply(net)
    once = {name: param.detach().clone() for name, param in net.named_parameters()}
    tied_ticket().apply(net)
    assert same(dict(net.named_parameters()), once)
    assert all(param is before[name] for name, param in net.named_parameters())
    assert all(param.requires_grad and param.is_leaf and param.dtype == dtype for param in net.parameters())
    assert torch.equal(net.first.weight == 0, ~tied_ticket().masks["first.weight"])


def test_applying_leaves_the_ticket_alone_and_fits_frozen_weights_as_well():
    ticket, net = tied_ticket(), Attention().requires_grad_(False)
    ticket.apply(net)
    assert equal_tickets(ticket, tied_ticket())
    assert torch.equal(net.out.weight == 0, ~ticket.masks["out.weight"])


def test_a_ticket_has_the_mask_of_a_tied_weight_under_both_names_so_it_fits_the_untied_module_too():
    ticket = tied_ticket()
    assert list(ticket.masks) == ["first.weight", "out.weight", "second.weight"]
    assert ticket.ties == {"second.weight": "first.weight"}
    for tied in (True, False):
        net = Attention(tied)
        ticket.apply(net)
        for layer in (net.first, net.second):
            assert torch.equal(layer.weight == 0, ~ticket.masks["first.weight"])


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_a_ticket_that_has_only_one_name_of_a_tied_weight_fits_by_either(name):
    net = Attention()
    Ticket({name: torch.zeros(3, 3).bool()}).apply(net)
    assert not net.first.weight.any()
    assert net.second.weight is net.first.weight


def test_misfits_are_listed_as_missing_unknown_and_mis_shaped_and_nothing_has_changed():
    net = Attention()
    removed = {
        "first.weight": torch.zeros(3, 3).bool(),
        "out.weight": torch.zeros(3, 2).bool(),
        "out.bias": torch.zeros(2, 1).bool(),
        "gone.weight": mask(False),
        "attn_mask": torch.zeros(3, 3).bool(),
        "scratch": mask(False),
        "out": mask(False),
    }
    ticket = Ticket(removed)
    misfits = Misfits(
        missing=("gone.weight",),
        unknown=("attn_mask", "scratch", "out"),
        misshaped=("out.weight (3, 2) for (2, 3)", "out.bias (2, 1) for (2,)"),
    )
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert ticket.check(net) == misfits
    for refuse in (ticket.apply, ticket.require_fit):
        with pytest.raises(LotteryError) as refusal:
            refuse(net)
        assert str(refusal.value) == (
            "The ticket does not fit Attention: missing in the module: gone.weight; "
            "unknown as parameters: attn_mask, scratch, out; "
            "mis-shaped: out.weight (3, 2) for (2, 3), out.bias (2, 1) for (2,)."
        )
    assert same(net.state_dict(), before)
    assert bool(misfits)
    assert not Ticket({"first.weight": removed["first.weight"]}).check(net)


def with_prefix(prefix):
    return Ticket({f"{prefix}{name}": mask for name, mask in tied_ticket().masks.items()})


@pytest.mark.parametrize("prefix", ["model", "model."])
def test_a_prefix_is_stripped_with_its_dot_or_without(prefix):
    net = Attention()
    assert with_prefix("model.").check(net, prefix) == Misfits((), (), ())
    with_prefix("model.").apply(net, prefix)
    assert torch.equal(net.out.weight == 0, ~tied_ticket().masks["out.weight"])
    assert with_prefix("model.").check(net).missing == ("model.first.weight", "model.out.weight", "model.second.weight")


@pytest.mark.parametrize("prefix", ["model", "model."])
def test_a_name_without_the_prefix_is_missing(prefix):
    net = Attention()
    for names in ("", "models.", "model.model.", "other.model."):
        ticket = with_prefix(names)
        assert ticket.check(net, prefix) == Misfits(tuple(ticket.masks), (), ())
    half = Ticket({"model.out.weight": random_mask(2, 3), "out.weight": random_mask(2, 3)})
    before = net.out.weight.detach().clone()
    with pytest.raises(LotteryError, match="missing in the module: out.weight"):
        half.apply(net, prefix)
    assert torch.equal(net.out.weight, before)


def test_a_ticket_fits_the_compiled_module_by_its_plain_names():
    net = Attention()
    net.out = torch.compile(net.out)
    tied_ticket().apply(torch.compile(net))
    assert torch.equal(net.out.weight == 0, ~tied_ticket().masks["out.weight"])


def test_sparsity_and_table_count_tied_weights_once():
    masks = {"first.weight": torch.eye(3).bool(), "out.weight": torch.ones(2, 3).bool(), "none": torch.ones(0).bool()}
    ticket = ticket_of(masks, ties(Attention()), 17, {"method": "eye"})
    assert ticket.table() == [
        Layer("first.weight", (3, 3), kept=3, total=9),
        Layer("out.weight", (2, 3), kept=6, total=6),
        Layer("none", (0,), kept=0, total=0),
    ]
    assert [row.sparsity for row in ticket.table()] == [pytest.approx(2 / 3), 0.0, 0.0]
    assert ticket.sparsity == ticket.provenance["sparsity"] == pytest.approx(6 / 15)
    assert ticket.provenance["model_sparsity"] == pytest.approx(6 / 17)
    assert list(ticket.distinct) == ["first.weight", "out.weight", "none"]
    assert repr(ticket) == "Ticket(3 parameters, sparsity 0.4000, eye)"


def test_a_ticket_of_masks_copies_them_and_takes_only_the_ties_it_has_masks_for():
    masks = {"out.weight": random_mask(2, 3)}
    ticket = ticket_of(masks, ties(Attention()), 17, {"sparsity": "mine"})
    masks["out.weight"].zero_()
    assert torch.equal(ticket.masks["out.weight"], random_mask(2, 3))
    assert ticket.ties == {}
    assert ticket.provenance["sparsity"] == "mine"


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_a_shuffled_ticket_keeps_as_many_in_each_layer_and_shuffles_ties_alike(seed):
    ticket = tied_ticket()
    shuffled = ticket.shuffled(seed)
    assert shuffled.table() == ticket.table()
    assert list(shuffled.masks) == list(ticket.masks)
    assert torch.equal(shuffled.masks["second.weight"], shuffled.masks["first.weight"])
    assert shuffled.ties == ticket.ties
    assert shuffled.provenance == {**ticket.provenance, "shuffle_seed": seed}
    assert equal_tickets(ticket, tied_ticket())
    assert equal_tickets(ticket.shuffled(seed), shuffled)
    shuffled.apply(Attention())


def test_another_seed_shuffles_otherwise_and_the_order_of_the_masks_does_not_count():
    ticket = Ticket(
        {"b": random_mask(20, 20), "a": random_mask(20, 20), "alias": random_mask(20, 20)}, ties={"alias": "b"}
    )
    turned = Ticket(dict(reversed(ticket.masks.items())), ties=ticket.ties)
    assert all(torch.equal(ticket.shuffled(3).masks[name], turned.shuffled(3).masks[name]) for name in "ab")
    assert list(turned.shuffled(3).masks) == ["alias", "a", "b"]
    assert torch.equal(ticket.shuffled(3).masks["alias"], ticket.shuffled(3).masks["b"])
    assert ticket.shuffled(3).hamming(ticket.shuffled(4)) > 0.3
    assert ticket.shuffled(3).hamming(ticket) > 0.3
    assert not torch.equal(ticket.shuffled(3).masks["a"], ticket.shuffled(3).masks["b"])


@pytest.mark.parametrize("layers", ["erk", "uniform"])
def test_a_random_ticket_keeps_as_many_in_all_as_densities_part_them_and_draws_ties_alike(layers):
    ticket = tied_ticket()
    drawn = ticket.at_random(layers, 3)
    assert drawn.sparsity == ticket.sparsity and list(drawn.masks) == list(ticket.masks)
    shapes = {name: mask.shape for name, mask in ticket.distinct.items()}
    kept = {name: int(mask.sum()) for name, mask in drawn.distinct.items()}
    assert kept == layer_counts(layers, shapes, ticket.sparsity)
    assert torch.equal(drawn.masks["second.weight"], drawn.masks["first.weight"]) and drawn.ties == ticket.ties
    assert drawn.provenance == {**ticket.provenance, "shuffle_seed": 3, "layers": layers}
    assert equal_tickets(ticket.at_random(layers, 3), drawn) and full_ticket().at_random(layers, 0).units == {}


def test_a_shuffle_on_paths_keeps_what_the_table_of_a_module_counts_and_shuffles_ties_alike():
    ticket, inputs = tied_ticket(), torch.zeros(2, 3)

    def forward(net, x):
        return net.out(net.second(torch.tanh(net.first(x))))

    shuffled = ticket.shuffled_on_paths(3, Attention(), inputs, forward=forward)
    tables = [each.table(Attention(), inputs, forward=forward) for each in (ticket, shuffled)]
    rows = [[(row.name, row.kept, row.effective) for row in table] for table in tables]
    assert rows[0] == rows[1]
    assert torch.equal(shuffled.masks["second.weight"], shuffled.masks["first.weight"]) and shuffled.ties == ticket.ties
    assert shuffled.provenance == {**ticket.provenance, "shuffle_seed": 3, "layers": "effective"}
    with pytest.raises(LotteryError, match="does not fit Linear"):
        ticket.shuffled_on_paths(3, nn.Linear(2, 2), inputs)


def test_a_shuffled_ticket_has_no_units():
    assert full_ticket().shuffled(0).units == {}


NET = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
COUPLINGS = {
    "0": Coupling(6, [("0.weight", 0, 1, 0), ("0.bias", 0, 1, 0), ("2.weight", 1, 1, 0)]),
    "2": Coupling(6, [("2.weight", 0, 1, 0), ("2.bias", 0, 1, 0), ("4.weight", 1, 1, 0)]),
}


def orders_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randperm(6, generator=generator) for name in COUPLINGS}


def ticket_of_layers(seed=0):
    shapes = {"0.weight": (6, 3), "2.weight": (6, 6), "4.weight": (2, 6)}
    return Ticket({name: random_mask(*shape, seed=seed) for name, shape in shapes.items()})


class TestTransported:
    def test_by_the_identity_it_is_the_same(self):
        ticket = ticket_of_layers()
        as_is = {name: torch.arange(6) for name in COUPLINGS}
        assert same(ticket.transported(COUPLINGS, as_is).masks, ticket.masks)
        assert same(ticket.transported(COUPLINGS, {}).masks, ticket.masks)

    @pytest.mark.parametrize("seed", range(5))
    def test_there_and_back_it_is_the_same_and_each_tensor_keeps_as_many(self, seed):
        ticket, orders = ticket_of_layers(seed), orders_of(seed)
        there = ticket.transported(COUPLINGS, orders)
        assert not same(there.masks, ticket.masks)
        assert {n: int(m.sum()) for n, m in there.masks.items()} == {n: int(m.sum()) for n, m in ticket.masks.items()}
        back = there.transported(COUPLINGS, {name: order.argsort() for name, order in orders.items()})
        assert same(back.masks, ticket.masks)

    def test_a_permuted_network_with_its_permuted_ticket_computes_the_same(self):
        torch.manual_seed(0)
        net, inputs, orders = deepcopy(NET), torch.randn(20, 3), orders_of(1)
        twin = deepcopy(NET)
        twin.load_state_dict(permute(net.state_dict(), COUPLINGS, orders))
        ticket = ticket_of_layers()
        moved = ticket.transported(COUPLINGS, orders)
        ticket.apply(net)
        naive = deepcopy(twin)
        ticket.apply(naive)
        moved.apply(twin)
        torch.testing.assert_close(twin(inputs), net(inputs))
        assert not torch.allclose(naive(inputs), net(inputs), atol=0.01)

    def test_tied_masks_and_masks_of_units_move_along(self):
        ticket = Ticket(
            {"a": mask([True, False], [True, True]), "b": mask([True, False], [True, True])},
            units={"0": mask(True, False)},
            ties={"b": "a"},
            provenance={"method": "zeros"},
        )
        moved = ticket.transported({"0": Coupling(2, [("a", 1, 1, 0)])}, {"0": torch.tensor([1, 0])})
        assert moved.masks["a"].tolist() == moved.masks["b"].tolist() == [[False, True], [True, True]]
        assert moved.units["0"].tolist() == [False, True]
        assert moved.provenance == {"method": "zeros", "transported": True}

    def test_units_in_no_coupling_are_refused(self):
        ticket = Ticket({"0.weight": random_mask(6, 3)}, units={"heads": mask(True, False)})
        with pytest.raises(LotteryError, match="Nothing says where the units of 'heads' go"):
            ticket.transported(COUPLINGS, orders_of(0))


def test_hamming_is_the_fraction_that_differs_tied_weights_once():
    ones = {"a": torch.ones(3).bool(), "b": torch.ones(1).bool()}
    a = Ticket({**ones, "c": ones["a"]}, ties={"c": "a"})
    b = Ticket({**ones, "a": mask(True, False, True), "c": mask(True, False, True)}, ties={"c": "a"})
    assert a.hamming(a) == 0
    assert a.hamming(b) == b.hamming(a) == 1 / 4
    with pytest.raises(LotteryError, match="c in one only"):
        a.hamming(Ticket({**ones, "c": ones["a"]}))
    with pytest.raises(LotteryError, match="'b' differ in shape"):
        a.hamming(Ticket({**ones, "b": torch.ones(2).bool()}))


def test_a_hash_tells_names_dtypes_shapes_and_bits_apart_but_not_the_order():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(0, 2)}
    rest = [
        {"a": torch.tensor([1.0, 2.0])},
        {"c": one["a"], "b": one["b"]},
        {"a": torch.tensor([2.0, 1.0]), "b": one["b"]},
        {"a": one["a"].view(1, 2), "b": one["b"]},
        {"a": one["a"].view(torch.int32), "b": one["b"]},
        {"a": one["a"], "b": torch.ones(2, 0)},
        {"a": one["a"], "b": torch.ones(0, 2, dtype=torch.bfloat16)},
        {"a": torch.tensor([-1.0, 2.0]), "b": one["b"]},
        {"a": torch.tensor([0.0]), "b": one["b"]},
        {"a": torch.tensor([-0.0]), "b": one["b"]},
    ]
    assert len({hash_of_tensors(tensors) for tensors in [one, *rest]}) == 1 + len(rest)
    assert hash_of_tensors(dict(reversed(one.items()))) == hash_of_tensors(one)
    strided = torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, 0].requires_grad_()
    assert hash_of_tensors({"b": one["b"], "a": strided}) == hash_of_tensors(one)
    assert hash_of_tensors({"a": torch.tensor(math.nan)}) == hash_of_tensors({"a": torch.tensor(math.nan)})


def test_versions_are_those_installed_and_none_where_nothing_is():
    installed = importlib.metadata.version("torch")
    assert versions("torch", "no-such-package") == {"torch": installed, "no-such-package": None}


def test_the_zeros_of_an_applied_ticket_are_that_ticket():
    net = Attention()
    ticket = tied_ticket()
    ticket.apply(net)
    again = Ticket.from_zeros(net)
    assert same(again.masks, ticket.masks)
    assert (again.ties, again.sparsity, again.provenance["method"]) == (ticket.ties, ticket.sparsity, "zeros")
    assert again.check(net) == Misfits((), (), ())


def test_zeros_outside_of_the_scope_are_none_of_a_ticket():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Embedding(3, 3, padding_idx=0), nn.Linear(3, 2))
    for layer in (net[0], net[3]):
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        net[3].weight[0, 1] = -0.0  # as good a zero
    ticket = Ticket.from_zeros(net, Scope(exclude=("0.*",)))
    assert same(ticket.masks, {"3.weight": mask([True, False, True], [True] * 3)})


def test_a_module_without_zeros_or_with_an_empty_layer_has_no_ticket_in_it():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(LotteryError, match="No weight of Sequential in .* is zero"):
        Ticket.from_zeros(net)
    nn.init.zeros_(net[1].weight)
    with pytest.raises(LotteryError, match=r"'1.weight' is all zero.*Scope\(exclude=\('1.weight',\)\)"):
        Ticket.from_zeros(net)


def frozen(layer):
    layer.weight.requires_grad_(False)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "0.weight_orig' is reparametrised by a hook"),
        (parametrizations.weight_norm, "0.parametrizations.weight.original1' is owned by"),
        (frozen, r"0.weight' is frozen \(requires_grad=False\)"),
    ],
)
def test_a_pruned_layer_whose_zeros_no_ticket_would_have_is_refused_until_it_is_plain(how, name):
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with torch.no_grad():
        net[1].weight[0, 1] = 0
    how(net[0])
    with pytest.raises(LotteryError, match=rf"'{name}.*, so that its zeros would be in no ticket"):
        Ticket.from_zeros(net)
    assert list(Ticket.from_zeros(net, Scope(exclude=("0.*",))).masks) == ["1.weight"]


def test_what_torch_pruned_for_good_is_a_ticket():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    prune.l1_unstructured(net[0], "weight", 0.25)
    kept = net[0].weight_mask.bool()
    prune.remove(net[0], "weight")
    assert same(Ticket.from_zeros(net).masks, {"0.weight": kept, "1.weight": torch.ones(2, 4, dtype=torch.bool)})
