"""What `test_shards.py` starts as a script, as a user would: gloo processes under FSDP2, one fit after another.

Prints `ok` from each rank once everything has held.
"""

import errno
import os
import shutil
import sys
import weakref
from collections import Counter
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from helpers.projects import RankBatches, trainer
from helpers.states import same
from lightning_lottery import (
    PLATON,
    ExactResume,
    LotteryError,
    MagnitudePruning,
    MaskFreezing,
    Scope,
    Snapshots,
    Ticket,
    shrink,
)
from lightning_lottery.children.folders import load_folder
from lightning_lottery.connectivity.path import path
from lightning_lottery.functional import keep_top, mask_hash
from lightning_lottery.functional import sharded as ranking
from lightning_lottery.shards import local

WORDS, STEPS = 11, 12
EVERYTHING = Scope(types=("Linear", "Embedding"), biases=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 6))
        self.gate = nn.Linear(6, 1)  # fewer rows than ranks, and a bias of one entry

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(-1, -2), -1) @ v)
        return x + torch.sigmoid(self.gate(x)) * self.mlp(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(WORDS, 6), Block(), nn.Linear(6, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


class Small(LightningModule):
    """A small transformer with tied embeddings."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def configure_model(self):
        if self.device_mesh is not None and not isinstance(self.net, FSDPModule):
            for module in (self.net.block, self.net):
                fully_shard(module, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.1)


class Texts(RankBatches):
    """Every rank draws the same batches, so that gradients are those of one process to the bit; or each its own."""

    def __init__(self, alike=True, **arguments):
        super().__init__(**arguments)
        self.alike = alike

    def __iter__(self):
        start, self._start = self._start, 0
        rank = 0 if self.alike or not torch.distributed.is_initialized() else torch.distributed.get_rank()
        for k in range(start, len(self)):
            self._next = k + 1
            seed = 1_000_000 * rank + 10_000 * self.seed + 100 * self.epoch + k
            yield torch.randint(WORDS, (4, 7), generator=torch.Generator().manual_seed(seed))


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Look(Callback):
    """Masks and weights after every batch, whole; removed weights are looked for wherever somebody may look."""

    lottery_order = 3

    def __init__(self, callback, frozen):
        self.callback, self.frozen, self.masks, self.weights = callback, frozen, [], {}

    def on_train_start(self, trainer, module):
        memory = self.callback.explanation(module).memory
        assert (f"adds to this rank of {trainer.world_size}" in memory) == (trainer.world_size > 1), memory

    def on_train_batch_end(self, trainer, module, *_):
        shards = self.callback._masked.shards
        self.masks.append({name: shards.whole(name, mask).clone() for name, mask in self.callback.masks.items()})
        self._look(trainer, module)

    def _look(self, trainer, module):
        if self.frozen and self.callback.step:
            masks = self.callback.masks
            for name, part in self.callback._masked.parts.items():
                assert not part.detach()[~masks[name]].any(), f"{name} came back"

    on_validation_start = on_train_batch_start = lambda self, trainer, module, *_: self._look(trainer, module)

    def on_fit_end(self, trainer, module):
        self.weights = {name: whole(param).detach().clone() for name, param in module.named_parameters()}


def fit(folder, *callbacks, ranks=2, alike=True, ckpt=None, module=None, **arguments):
    seed_everything(1, verbose=False)
    sharded = {"strategy": ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1), "devices": ranks}
    settings = {"max_epochs": 3, "use_distributed_sampler": False, **(sharded if ranks else {})}
    fitted = trainer(folder, *callbacks, **(settings | arguments))
    fitted.fit(module or Small(), Texts(alike), Texts(batches=1, seed=9), ckpt_path=ckpt)
    return fitted


def ticket():
    generator = torch.Generator().manual_seed(0)
    params = EVERYTHING.select(Small())
    masks = {name: torch.rand(param.shape, generator=generator) < 0.4 for name, param in params.items()}
    return Ticket(masks)


CALLBACKS = {
    "MaskFreezing": lambda: MaskFreezing(ticket()),
    "MagnitudePruning": lambda: MagnitudePruning(0.7, interval=2, begin=1, end=9, scope=EVERYTHING),
    "MagnitudePruning per tensor": lambda: MagnitudePruning(
        0.7, interval=3, begin=0, end=9, per="tensor", scope=EVERYTHING
    ),
    "PLATON": lambda: PLATON(0.7, interval=2, begin=1, end=9, scope=EVERYTHING),
    "PLATON per tensor": lambda: PLATON(0.7, interval=1, begin=2, end=7, per="tensor", scope=EVERYTHING),
}


def refusal(function, *arguments, **named):
    """The sentence with which a call is refused."""
    try:
        function(*arguments, **named)
    except LotteryError as error:
        return str(error)
    raise AssertionError("nothing was refused")


def say(*words):
    sys.stdout.write(" ".join(words) + "\n")  # at once: lines of ranks do not mix
    sys.stdout.flush()


def one_process(folder):
    """What every callback does in one process: before any ranks are started."""
    results = {}
    for name, make in CALLBACKS.items():
        callback = make()
        look = Look(callback, callback.frozen)
        saves = ModelCheckpoint(dirpath=folder / name, filename="{step}", every_n_train_steps=5, save_top_k=-1)
        fit(folder / name, callback, look, saves, ranks=0, enable_checkpointing=True)
        results[name] = (look, callback.ticket())
    return results


def laws(name, folder, reference, ranks, ckpts):
    """The same masks and weights as one process has, at every step, and from every checkpoint on."""
    expected, whole_ticket = reference
    callback = CALLBACKS[name]()
    look = Look(callback, callback.frozen)
    saves = ModelCheckpoint(dirpath=folder / "points", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    fitted = fit(folder, callback, look, saves, ranks=ranks, enable_checkpointing=True)
    assert fitted.world_size == ranks and callback.step == STEPS == len(look.masks)
    for step, (masks, alone) in enumerate(zip(look.masks, expected.masks, strict=True), start=1):
        assert same(masks, alone), f"{name}: other masks than one process's at step {step}"
    assert same(look.weights, expected.weights), f"{name}: other weights than one process's"
    written = callback.ticket()
    # Equal on any number of ranks, for it is that of the whole masks of one process.
    assert callback._masked.hashes == {n: mask_hash(n, mask) for n, mask in whole_ticket.distinct.items()}
    assert same(written.masks, whole_ticket.masks) and written.ties == whole_ticket.ties
    assert written.sparsity == callback.sparsity == whole_ticket.sparsity
    for table in ckpts[0].parent.glob("*.csv"):  # what each update changed, too
        assert (folder / table.name).read_text() == table.read_text()
    module = fitted.lightning_module
    with torch.no_grad():
        for param in module.parameters():
            param.fill_(1.0)
    whole_ticket.apply(module)
    assert all(same(whole(module.get_parameter(n)).ne(0), mask) for n, mask in whole_ticket.masks.items())
    whole_network = (shrink, Ticket.from_zeros, lambda shards, ticket: ticket.table(shards, torch.zeros(1, 2)))
    for function in whole_network:
        assert "needs whole weights" in refusal(function, module, whole_ticket)
    for ckpt in (folder / "points" / "step=5.ckpt", *ckpts):
        again = CALLBACKS[name]()
        look_again = Look(again, again.frozen)
        fit(folder / "again", again, look_again, ranks=ranks, ckpt=ckpt)
        left = len(look_again.masks)
        assert 0 < left < STEPS and same(look_again.masks, expected.masks[-left:]), f"{name}: masks after {ckpt}"
        assert same(look_again.weights, expected.weights), f"{name}: weights after {ckpt}"
    say(name, "holds the laws")


class Killed(Callback):
    """Ends a fit in the middle, without a word to anybody."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 8:
            raise KeyError("killed")


def goes_on(folder, reference, ranks, earlier):
    """A run that was ended goes on from the newest checkpoint that took its name, and from a snapshot."""
    saves = [ExactResume(interval=1), Snapshots([6])]
    with suppress(KeyError):
        fit(folder, CALLBACKS["PLATON"](), *saves, Killed(), ranks=ranks)
    newest = folder / "resume.ckpt"
    assert newest.is_symlink() and torch.load(newest / "meta.pt", weights_only=True)["global_step"] == 7
    for ckpt in (newest, folder / "snapshots" / "step=6.ckpt", *earlier):
        callback = CALLBACKS["PLATON"]()
        look = Look(callback, callback.frozen)
        fit(folder / "again", callback, look, ExactResume(interval=3), ranks=ranks, ckpt=ckpt)
        left = len(look.masks)
        assert 4 < left < 7 and same(look.masks, reference.masks[-left:]), f"masks after {ckpt}"
        assert same(look.weights, reference.weights), f"weights after {ckpt}"
    say("goes on")


def forgets(folder, ranks):
    """A fit whose checkpoints have no averages goes on with its masks, and averages that begin anew."""
    settings = {"interval": 2, "begin": 1, "end": 9, "scope": EVERYTHING, "save_state": False}
    first, second = (PLATON(0.7, **settings) for _ in range(2))
    look = Look(first, first.frozen)
    fit(folder, first, look, Snapshots([8]), ranks=ranks)
    again = Look(second, second.frozen)
    fit(folder / "again", second, again, ranks=ranks, ckpt=folder / "snapshots" / "step=8.ckpt")
    assert same(again.masks[0], look.masks[8]) and second.step == STEPS and second.sparsity == first.sparsity
    say("averages are forgotten")


def cannot_be_written(folder, ranks):
    """Every rank says in a sentence why a checkpoint was not written, though one alone failed."""
    is_last = torch.distributed.get_rank() == ranks - 1
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch.object(FileSystemWriter, "write_data", side_effect=full) if is_last else nullcontext():
        said = refusal(fit, folder, Snapshots([2]), ranks=ranks)
    assert said.endswith("step=2.ckpt' could not be written: No space left on device."), said
    (folder / "snapshots-b").touch()
    said = refusal(fit, folder, Snapshots([2], name="b"), ranks=ranks)
    assert said.endswith("step=2.ckpt' could not be written: Not a directory."), said
    say("what is not written is said")


class Recorded(PLATON):
    """Whole scores beside the masks that were made of their shards."""

    def _reset(self):
        super()._reset()
        self.pairs = []

    def find_masks(self, params, sparsity, within):
        shards, scores = self._masked.shards, self.scores(params, self.step)
        whole_scores = {name: shards.whole(name, score).clone() for name, score in scores.items()}
        masks = super().find_masks(params, sparsity, within)
        whole_masks = {name: shards.whole(name, mask).clone() for name, mask in masks.items()}
        self.pairs.append((keep_top(whole_scores, sparsity, per=self.per), whole_masks))
        return masks


def replayed(folder, ranks):
    """Where every rank has batches of its own, masks are those of the whole scores."""
    for per in ("all", "tensor"):
        callback = Recorded(0.7, interval=2, begin=1, end=9, scope=EVERYTHING, per=per)
        fit(
            folder / per,
            callback,
            ranks=ranks,
            alike=False,
            gradient_clip_val=0.1,
            accumulate_grad_batches=2,
            max_epochs=6,
        )
        assert len(callback.pairs) == 7 and all(same(*pair) for pair in callback.pairs)
    say("scores replayed")


AGREEMENT = 2
"""Gathers of short texts from all ranks: first their lengths."""

GATHERS = ("all_gather_into_tensor", "_allgather_base_")
"""Those of tensors: whole ones from DTensors, and FSDP2's own."""


class Messages(TorchDispatchMode):
    """Every collective of a block, in order: its kind and the bytes of the tensors that it is given."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # first it becomes what it sends
        kind = operation.overloadpacket.__name__
        if operation.namespace in ("c10d", "_c10d_functional") and not kind.startswith(("wait", "_wrap")):
            tensors = [value for value in tree_leaves(args) if isinstance(value, torch.Tensor)]
            self.sent.append((kind, sum(tensor.nbytes for tensor in tensors)))
        return operation(*args, **(kwargs or {}))


class Recording(Messages):
    """The same, with those of each ranking by themselves."""

    def __init__(self, callback):
        super().__init__()
        self.rankings, self._update = [], callback._update
        callback._update = self.ranked

    def ranked(self, trainer):
        before = len(self.sent)
        self._update(trainer)
        self.rankings.append(Counter(kind for kind, _ in self.sent[before:]))


def sends_little(folder, ranks):
    """What a fit sends with a callback and not without: a few small messages at each ranking, and no weight."""
    with Messages() as dense:
        fit(folder / "dense", ranks=ranks)
    without = Counter(kind for kind, _ in dense.sent)
    # In each ranking: hashes of the present masks, sizes, two or four digits, ties, what ranks share of these if any,
    # counts and hashes of the new masks, their overlap with the present ones.
    sums = {"PLATON": 8, "PLATON per tensor": 10, "MagnitudePruning": 8, "MaskFreezing": 0}
    for name, most in sums.items():
        callback = CALLBACKS[name]()
        with Recording(callback) as messages:
            fit(folder / name, callback, ranks=ranks)
        assert all(set(ranking) == {"allreduce_", "allgather_"} for ranking in messages.rankings)
        assert all(ranking["allreduce_"] in (most - 1, most) for ranking in messages.rankings), messages.rankings
        assert all(ranking["allgather_"] == AGREEMENT for ranking in messages.rankings), messages.rankings
        assert max(size for _, size in messages.sent) < 2**20
        more = Counter(kind for kind, _ in messages.sent) - without
        in_rankings = sum(messages.rankings, Counter())
        # Besides the counts of the first masks and the hashes of the last ones: each step's finite gradients, or an
        # audit before training, at each validation and at the end.
        besides = 2 + (STEPS if not callback.frozen else 5)
        assert more["allreduce_"] == in_rankings["allreduce_"] + besides, (name, more)
        # The weights' hashes at the beginning and the end; every rank's ticket.
        agreements = 2 + (name == "MaskFreezing")
        assert more["allgather_"] == in_rankings["allgather_"] + agreements * AGREEMENT, (name, more)
        # The ticket's masks, one by one when the fit ends. After each of the three validations a copy of the outer
        # module's weights is let go, and gathered once more.
        assert [more[kind] for kind in GATHERS] == [len(callback.masks), 3], (name, more)
        assert set(more) <= {"allreduce_", "allgather_", *GATHERS, "broadcast_", "barrier"}, (name, more)
    say("little is sent")


class Wide(Small):
    """Weights enough that single numbers beside them do not count."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(*(nn.Linear(501, 501) for _ in range(12)))

    def configure_model(self):
        if not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return self.net(nn.functional.one_hot(batch, 501).float()).square().mean()


class Made(TorchDispatchMode):
    """The bytes of the tensors that a block has made and that are still there, and the most that there were."""

    def __init__(self):
        super().__init__()
        self.most = self.now = 0
        self._known = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented
        before = {key for key, _, _ in self._memories((args, kwargs))}
        made = operation(*args, **(kwargs or {}))
        for key, size, memory in self._memories(made):
            if key not in before | self._known:
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(memory, self._gone, key, size)
        return made

    def _memories(self, values):
        memories = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
        return [(memory._cdata, memory.nbytes(), memory) for memory in memories]

    def _gone(self, key, size):
        self._known.discard(key)
        self.now -= size


class Held(Callback):
    """The bytes made since the fit began that are there after a batch."""

    lottery_order = 3

    def __init__(self, made):
        self.made = made

    def on_train_batch_end(self, *_):
        self.bytes = self.made.now


def held(folder, ranks, *callbacks):
    """The bytes that there are after a fit's last batch, and the most that each ranking takes beside what is there."""
    peaks = []

    def measured(update, trainer):
        before = made.most = made.now
        update(trainer)
        peaks.append(made.most - before)

    with Made() as made:
        watch = Held(made)
        for callback in callbacks:
            callback._update = partial(measured, callback._update)
        fit(folder, *callbacks, watch, ranks=ranks, module=Wide(), max_epochs=2, limit_val_batches=0)
    return watch.bytes, peaks


def remembers_little(folder, ranks):
    """PLATON's averages and the mask are all that a rank keeps and, but for a twentieth, all that a ranking takes."""
    (dense, _), block = held(folder / "dense", ranks), (1 << 14) // ranks
    # Histograms per tensor are small. `end` is no multiple of `interval`: at that ranking windows are not free.
    settings = {"interval": 4, "begin": 1, "end": 6, "per": "tensor"}
    for callback, rankings, each in ((PLATON(0.5, **settings), 3, 13), (MagnitudePruning(0.5, **settings), 2, 1)):
        with patch.object(ranking, "_BLOCK", block):
            masked, peaks = held(folder / callback.label, ranks, callback)
        sizes, kept = [mask.numel() for mask in callback.masks.values()], masked - dense
        assert each * sum(sizes) <= kept <= each * sum(sizes) + 100, (kept, sizes)
        assert len(peaks) == rankings and kept + max(peaks) <= (each + 13 * 0.05) * sum(sizes), (kept, peaks, sizes)
        # The scores of one tensor at a time where no window has room for them, 21 bytes of each entry in a block, and
        # some copies of a histogram of 2 KiB for each tensor.
        assert max(peaks) <= 4 * max(sizes) + 21 * block + 5 * 2048 * len(sizes), (peaks, sizes)
    say("little is remembered")


class OneIsNaN(Callback):
    """The gradient of one entry, which the last rank holds, is none in one step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 4 and trainer.global_rank == trainer.world_size - 1:
            local(module.net.block.qkv.weight.grad)[-1, -1] = torch.nan


def with_nan(folder, ranks):
    """Masks after every step, where one step has no gradient to look at: it counts for no shard."""
    callback = CALLBACKS["PLATON"]()
    look = Look(callback, callback.frozen)
    fit(folder, callback, look, OneIsNaN(), ranks=ranks)
    return look.masks


class Dressed(Small):
    """Blocks compiled, their activations computed again in the backward pass."""

    def configure_model(self):
        if not isinstance(self.net, FSDPModule):
            self.net.block = checkpoint_wrapper(self.net.block)
            super().configure_model()
            self.net.block.compile(backend="eager")


def dressed(folder, ranks):
    """With mixed precision, clipping, accumulation, compiled and checkpointed blocks: counts and zeros are exact."""
    for name in ("PLATON", "MagnitudePruning", "MaskFreezing"):
        callback = CALLBACKS[name]()
        clipped = {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2, "max_epochs": 6}
        fitted = fit(folder / name, callback, ranks=ranks, module=Dressed(), precision="bf16-mixed", **clipped)
        masks = {
            name: mask for name, mask in callback.ticket().masks.items() if name in callback.masks
        }  # tied ones once
        total, kept = sum(mask.numel() for mask in masks.values()), sum(int(mask.sum()) for mask in masks.values())
        assert name == "MaskFreezing" or kept == round(0.3 * total), (name, kept, total)
        module = fitted.lightning_module
        for mask_name, mask in masks.items():
            weight = whole(module.get_parameter(mask_name)).detach()
            assert weight.isfinite().all() and not weight[~mask].any(), f"{name}: {mask_name} came back"
    say("dressed")


class Flips(Callback):
    """Flips one bit of one rank's part of a mask."""

    def __init__(self, callback):
        self.callback = callback

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 8 and trainer.global_rank == trainer.world_size - 1:
            self.callback.masks["net.block.qkv.weight"][-1, -1] ^= True


def flipped(folder, points, ranks):
    """Every rank refuses a bit that was flipped, in the memory of one of them or in a checkpoint."""
    for name in ("PLATON", "MagnitudePruning", "MaskFreezing"):
        callback = CALLBACKS[name]()
        said = refusal(fit, folder / name, callback, Flips(callback), ranks=ranks)
        assert "mask of 'net.block.qkv.weight' is not what it was made" in said
        assert not (folder / name / "ticket.safetensors").exists()
    copy = folder / "copy"
    if torch.distributed.get_rank() == 0:
        shutil.copytree(points / "step=5.ckpt", copy)
        meta = torch.load(copy / "meta.pt", weights_only=True)
        (masks,) = (state["masks"] for state in meta["callbacks"].values() if "masks" in state)
        masks["net.block.qkv.weight"][-1] ^= 16
        torch.save(meta, copy / "meta.pt")
    torch.distributed.barrier()
    said = refusal(fit, folder / "again", CALLBACKS["PLATON"](), ranks=ranks, ckpt=copy)
    assert "mask of 'net.block.qkv.weight' is not the one that was saved" in said
    say("flipped bits are found")


def lines(points, ranks):
    """Along the line between two networks whose checkpoints are folders, ranks find what one process does."""
    ends, alphas = [points / f"step={step}.ckpt" for step in (10, 5)], (0.0, 0.25, 0.5, 1.0)
    texts = torch.randint(WORDS, (9, 7), generator=torch.Generator().manual_seed(9))
    strategy = ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1)
    runs = trainer(points, strategy=strategy, devices=ranks)
    mean = points / "mean.ckpt"
    judged = {"monitor": "val_loss", "mode": "min", "alphas": alphas, "save_midpoint": mean}
    report = path(Small(), DataLoader(texts, batch_size=4), ends, trainer=runs, **judged)
    first, second = (load_folder(end, "cpu")["state_dict"] for end in ends)
    alone, losses = Small(), []
    for alpha in alphas:
        alone.load_state_dict({name: torch.lerp(second[name], first[name], alpha) for name in first})
        losses.append(alone.training_step(texts, 0).item())
    assert torch.allclose(torch.tensor(report.curves["raw"][0, 1]["val_loss"]), torch.tensor(losses), rtol=1e-6)
    assert losses[0] != losses[-1]
    written = torch.load(mean, weights_only=True)["state_dict"]
    assert all(torch.allclose(tensor, (first[name] + second[name]) / 2) for name, tensor in written.items())
    refusal(path, Small(), DataLoader(texts, batch_size=4), ends, trainer=runs, align=True, **judged)
    say("lines")


if __name__ == "__main__":
    torch.set_num_threads(1)
    FOLDER, RANKS, EARLIER = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    alone = FOLDER / f"alone-{os.environ.get('LOCAL_RANK', 0)}"  # each rank runs this script from its beginning
    references, masks_with_nan = one_process(alone), with_nan(alone, 0)
    for name in CALLBACKS:
        points = [FOLDER / "alone-0" / name, *(Path(earlier) / name / "points" for earlier in EARLIER)]
        laws(name, FOLDER / name, references[name], RANKS, [point / "step=10.ckpt" for point in points])
    assert same(with_nan(FOLDER / "nan", RANKS), masks_with_nan)
    killed = [Path(earlier) / "killed" / "resume.ckpt" for earlier in EARLIER]
    goes_on(FOLDER / "killed", references["PLATON"][0], RANKS, killed)
    forgets(FOLDER / "forgets", RANKS)
    cannot_be_written(FOLDER / "full", RANKS)
    flipped(FOLDER / "flipped", FOLDER / "PLATON" / "points", RANKS)
    lines(FOLDER / "MaskFreezing" / "points", RANKS)
    dressed(FOLDER / "dressed", RANKS)
    replayed(FOLDER / "replayed", RANKS)
    sends_little(FOLDER / "sends", RANKS)
    remembers_little(FOLDER / "remembers", RANKS)
    say("ok")
