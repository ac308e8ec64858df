"""The result: masks and where they came from, in a small file that plain torch applies."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_lottery.checks import is_count
from lightning_lottery.diagnosis import Forward, Layer, LayerTable, diagnosis_of, run, table_of
from lightning_lottery.errors import LotteryError
from lightning_lottery.files import Location, Remote, hash_of_tensors, location, opened, write_whole
from lightning_lottery.frozen import Frozen, trainer_callback
from lightning_lottery.functional.alignment import Couplings, Orders, check_orders, permute
from lightning_lottery.functional.dynamic import Layers, random_masks
from lightning_lottery.functional.effective import places_on_paths, positive, shuffle_on_paths
from lightning_lottery.functional.masks import count, density, hamming, shuffle
from lightning_lottery.notebook import html_of
from lightning_lottery.scope import Scope, named_parameters, plain_name, size_of, ties
from lightning_lottery.shards import Shards, local, refuse_shards, reshard

if TYPE_CHECKING:
    from transformers import TrainerCallback

FORMAT = "lightning_lottery.ticket"
VERSION = 1
LONGEST_HEADER = 100_000_000  # of a safetensors file, in bytes
MOST_DIMENSIONS = 32  # of a mask: what numpy 1 can hold
MOST_ENTRIES = 2**48  # of a mask
DEEPEST_PROVENANCE = 200  # levels: a ticket that was trained and found again holds the earlier one's in its own


class Misfits(NamedTuple):
    """Names of a ticket that do not fit a module; all three empty where it fits."""

    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    misshaped: tuple[str, ...]

    def __bool__(self) -> bool:
        return any(self[:])


@dataclass(frozen=True, eq=False, repr=False)
class Ticket:
    """Masks of parameters and of units, and their provenance. Zeros bring no speed by themselves: see ``shrink``.

    Args:
        masks: Qualified parameter name to bool tensor of the parameter's shape, ``True`` = kept; on the CPU. A tied
            parameter has its mask under every one of its names.
        units: Name of a group of coupled units (heads, neurons, channels) to bool tensor of shape (units,).
        ties: Each further name of a tied parameter to the name that counts.
        provenance: Where the masks came from: plain JSON values under the keys ``method``, ``scope``, ``sparsity``,
            ``model_sparsity``, ``step``, ``seed``, ``weights`` (hash of the weights it was found on),
            ``initial_weights`` (hash of those at the beginning of the fit), ``versions``.

    Raises:
        LotteryError: There is no mask at all, one that is not a bool tensor, or tied names whose masks differ.

    Example:
        >>> ticket = Ticket({"weight": torch.tensor([[True, False]])})
        >>> layer = nn.Linear(2, 1)
        >>> ticket.apply(layer)
        >>> layer.weight[0, 1].item(), ticket.sparsity
        (0.0, 0.5)
    """

    masks: Mapping[str, Tensor]
    units: Mapping[str, Tensor] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.masks and not self.units:
            raise LotteryError("A ticket without a mask says nothing: give masks of parameters or of units.")
        for name, mask in (*self.masks.items(), *self.units.items()):
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise LotteryError(f"The mask of '{name}' is {kind}, not a bool tensor (True = kept).")
        for alias, name in self.ties.items():
            tied, first = self.masks.get(alias), self.masks.get(name)
            if tied is None or first is None or not torch.equal(tied, first) or name in self.ties:
                raise LotteryError(
                    f"'{alias}' is said to be tied to '{name}': both need the same mask, under both names."
                )

    def __repr__(self) -> str:
        method = self.provenance.get("method", "unknown method")
        return f"Ticket({len(self.distinct)} parameters, sparsity {self.sparsity:.4f}, {method})"

    def _repr_html_(self) -> str:
        method = self.provenance.get("method", "an unknown method")
        units = [Layer(name, tuple(mask.shape), *count({name: mask})) for name, mask in self.units.items()]
        cells = [
            (each.name, " × ".join(map(str, each.shape)), f"{each.kept:,}", f"{each.total:,}", f"{each.sparsity:.1%}")
            for each in (*self.table(), *units)
        ]
        title = f"Ticket of {method}, {self.sparsity:.1%} removed" if self.masks else f"Ticket of {method}"
        return html_of(title, ("weights or units", "shape", "kept", "of", "removed"), cells)

    @property
    def distinct(self) -> dict[str, Tensor]:
        """The masks with each tied parameter once."""
        return {name: mask for name, mask in self.masks.items() if name not in self.ties}

    @property
    def sparsity(self) -> float:
        """Fraction of the masked parameters' entries that is removed, in [0, 1]; tied parameters count once."""
        return 1 - density(self.distinct)

    def table(
        self,
        module: nn.Module | None = None,
        batch: Any = None,
        *,
        beside: "Ticket | None" = None,
        prefix: str = "",
        forward: Forward | None = None,
    ) -> LayerTable:
        """One row per masked parameter, tied ones once; with a module and a batch, what they do to it.

        Args:
            module: As for ``check``; what its own weights are does not matter, and they are not changed.
            batch: What the module is given, on its device: inputs, (inputs, targets), or a mapping of arguments.
            beside: Another ticket: how many of the entries that either keeps both keep, beside what chance would give.
            prefix: As for ``check``.
            forward: Runs the module on a batch (default: calls it with the inputs).

        Raises:
            LotteryError: A module without a batch, one that the ticket does not fit, or one of shards.

        Example:
            >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
            >>> first, second = torch.tensor([[True, False], [True, True]]), torch.tensor([[True, False]])
            >>> table = Ticket({"0.weight": first, "1.weight": second}).table(net, torch.ones(1, 2))
            >>> [(row.kept, row.effective, row.dead) for row in table], table.speed_up
            ([(3, 1, 1), (1, 1, 0)], 1.5)

        Source: columns as of ShrinkBench (Blalock et al. 2020); effective sparsity by Vysogorets & Kempe 2023.
        """
        if module is None:
            return table_of(self.distinct, None if beside is None else beside.masks)
        if batch is None:
            raise LotteryError("A table of what a ticket does to a module needs a batch to run it on.")
        refuse_shards(module, "`Ticket.table`")
        self.require_fit(module, prefix)
        others = None if beside is None else beside._masks_in(module, prefix)
        return diagnosis_of(module, self._masks_in(module, prefix), batch, forward, others)

    def check(self, module: nn.Module, prefix: str = "") -> Misfits:
        """The names that do not fit, without touching the module.

        ``missing``: the module has nothing of that name. ``unknown``: it has, but not a parameter. ``misshaped``: a
        parameter of another shape.

        Args:
            module: The LightningModule the ticket was found on, or another module with the same names.
            prefix: What to strip from the ticket's names, such as ``"model."`` for the network inside the
                LightningModule; a name without it is missing.
        """
        params = _all_parameters(module)
        not_parameters = {plain_name(name) for name, _ in (*module.named_buffers(), *module.named_modules())}
        missing, unknown, misshaped = list[str](), list[str](), list[str]()
        for name, mask in self.masks.items():
            inner = _strip(name, prefix)
            if inner not in params:
                (unknown if inner in not_parameters else missing).append(name)
            elif params[inner].shape != mask.shape:
                misshaped.append(f"{name} {tuple(mask.shape)} for {tuple(params[inner].shape)}")
        return Misfits(tuple(missing), tuple(unknown), tuple(misshaped))

    def require_fit(self, module: nn.Module, prefix: str = "") -> None:
        """Refuse a module that the ticket does not fit.

        Raises:
            LotteryError: A name does not fit (the message lists missing, unknown and mis-shaped ones), or there is no
                mask of a parameter.
        """
        if not self.masks:
            raise LotteryError("The ticket has masks of units only: no weight of a module can be masked by it.")
        if misfits := self.check(module, prefix):
            raise LotteryError(f"The ticket does not fit {type(module).__name__}: {_listed(misfits)}.")

    def apply(self, module: nn.Module, prefix: str = "") -> None:
        """Set the removed weights of a module to exactly zero, in place.

        Args:
            module: As for ``check``.
            prefix: As for ``check``.

        Raises:
            LotteryError: As of ``require_fit``, or a parameter is sharded in another way than in rows; nothing has been
                changed.
        """
        reshard(module)
        self.require_fit(module, prefix)
        params = _all_parameters(module)
        named = {name: params[_strip(name, prefix) or name] for name in self.masks}
        parts = {name: Shards({name: param}).part(name, self.masks[name]) for name, param in named.items()}
        with torch.no_grad():
            for name, part in parts.items():
                local(named[name]).masked_fill_(~part.to(named[name].device), 0)

    def freeze(self, module: nn.Module, *optimizers: Optimizer, prefix: str = "") -> Frozen:
        """Apply, and keep the removed weights at zero in a training loop of your own, whatever optimizers do.

        Gradient accumulation, clipping, a gradient scaler and weight decay are as ever: weights are masked after each
        ``optimizer.step()``, gradients as they come. Call it when the module is on its device and the weights and
        optimizer states that training begins with are loaded. Under ``DistributedDataParallel`` the module is the one
        inside.

        Args:
            module: As for ``check``.
            optimizers: Every optimizer that trains any of the masked weights, built from this module.
            prefix: As for ``check``.

        Returns:
            What says how many weights came back (``revived()``, 0) and ends it (``release()``).

        Raises:
            LotteryError: As of ``require_fit`` and ``Frozen``; nothing has been changed.

        Example:
            >>> layer = nn.Linear(2, 1)
            >>> optimizer = torch.optim.AdamW(layer.parameters())
            >>> frozen = Ticket({"weight": torch.tensor([[True, False]])}).freeze(layer, optimizer)
            >>> layer(torch.ones(2)).backward()
            >>> optimizer.step()
            >>> layer.weight[0, 1].item(), frozen.revived()
            (0.0, 0)
        """
        self.require_fit(module, prefix)
        masks, params = self._masks_in(module, prefix), named_parameters(module)
        return Frozen({name: params[name] for name in masks}, masks, optimizers)

    def trainer_callback(self, prefix: str = "") -> "TrainerCallback":
        """A callback for Hugging Face's Trainer that freezes its model as ``freeze`` does, while it trains.

        Example:
            >>> callback = Ticket({"weight": torch.tensor([[True, False]])}).trainer_callback()
            >>> type(callback).__mro__[1]
            <class 'transformers.trainer_callback.TrainerCallback'>
        """
        return trainer_callback(partial(self.freeze, prefix=prefix))

    def _masks_in(self, module: nn.Module, prefix: str) -> dict[str, Tensor]:
        """The masks by the first names of a module's parameters: of a tied one what every name keeps, as applied."""
        aliases, masks = ties(module), dict[str, Tensor]()
        for name, mask in self.masks.items():
            inner = _strip(name, prefix) or name
            first = aliases.get(inner, inner)
            masks[first] = masks.get(first, mask) & mask
        return masks

    def hamming(self, ticket: "Ticket") -> float:
        """Fraction of the masked entries in which two tickets differ, in [0, 1].

        Raises:
            LotteryError: They do not cover the same parameters in the same shapes.
        """
        return hamming(self.distinct, ticket.distinct)

    def shuffled(self, seed: int) -> "Ticket":
        """The layer-wise control: each parameter keeps as many entries as here, at places drawn anew.

        The same thing as pruning at random to the ticket's density in each layer: there is no other control for that.

        Source: Frankle et al. 2021, section 4.
        """
        return self._drawn_anew(shuffle(self.distinct, seed), {"shuffle_seed": seed})

    def shuffled_on_paths(
        self, seed: int, module: nn.Module, batch: Any, *, prefix: str = "", forward: Forward | None = None
    ) -> "Ticket":
        """The layer-wise control whose paths are whole: as ``shuffled``, and as many kept entries that do anything.

        A plain shuffle breaks paths where few entries are left, so that it loses more than which weights are kept. This
        one draws them among the units that the ticket uses; see ``functional.shuffle_on_paths``.

        Args:
            seed: Draws the places.
            module: As for ``check``; not changed.
            batch: As for ``table``.
            prefix: As for ``check``.
            forward: As for ``table``.

        Raises:
            LotteryError: As of ``require_fit`` and ``functional.shuffle_on_paths``.

        Example:
            >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
            >>> masks = {"0.weight": torch.tensor([[True, False, False]] * 2), "1.weight": torch.tensor([[True, True]])}
            >>> shuffled = Ticket(masks).shuffled_on_paths(2, net, torch.ones(1, 3))
            >>> [row.effective for row in shuffled.table(net, torch.ones(1, 3))]
            [2, 2]
        """
        self.require_fit(module, prefix)
        run_on, inputs = forward or run, positive(batch)
        inside, aliases = self._masks_in(module, prefix), ties(module)
        masks = shuffle_on_paths(inside, seed, lambda m: places_on_paths(module, m, lambda net: run_on(net, inputs)))
        inner = {name: _strip(name, prefix) or name for name in self.distinct}
        drawn = {name: masks[aliases.get(each, each)] for name, each in inner.items()}
        return self._drawn_anew(drawn, {"shuffle_seed": seed, "layers": "effective"})

    def at_random(self, layers: Layers, seed: int) -> "Ticket":
        """The random control: as many entries kept in all, parted among layers by a rule and at places drawn anew.

        Args:
            layers: The rule, ``"erk"`` or ``"uniform"``, as for ``functional.layer_densities``.
            seed: Draws the places.

        Raises:
            LotteryError: Another word.

        Source: Liu et al. 2022, "The unreasonable effectiveness of random pruning", section 3.
        """
        shapes = {name: mask.shape for name, mask in self.distinct.items()}
        masks = random_masks(layers, shapes, self.sparsity, seed)
        return self._drawn_anew(masks, {"shuffle_seed": seed, "layers": layers})

    def transported(self, couplings: Couplings, orders: Orders) -> "Ticket":
        """The ticket for the network with its units in another order: each entry moves with the weight that it masks.

        A permuted network with its permuted ticket computes what it did; each tensor keeps as many entries. The order
        in which one dense network lies nearest to another, ``functional.match_weights(target, source, couplings)``,
        takes a ticket that was found on the source to the target's initialisation.

        Args:
            couplings: Which units change places together, and the parts of tensors that they are, by the ticket's
                names; parts of other tensors are passed over.
            orders: For some of them, the units' numbers in their new order.

        Raises:
            LotteryError: Orders or couplings that do not fit the masks, or move none of them; masks of units that are
                in no coupling.

        Example:
            >>> from lightning_lottery.functional import Coupling
            >>> ticket = Ticket({"1.weight": torch.tensor([[True, False]])})
            >>> couplings = {"0": Coupling(2, [("0.weight", 0, 1, 0), ("1.weight", 1, 1, 0)])}
            >>> ticket.transported(couplings, {"0": torch.tensor([1, 0])}).masks
            {'1.weight': tensor([[False,  True]])}

        Source: Adnan et al. 2025, "Sparse training from random initialization: aligning lottery ticket masks using
        weight symmetry".
        """
        check_orders(couplings, orders, {name: mask.shape for name, mask in self.distinct.items()})
        if odd := [n for n, m in self.units.items() if n not in couplings or couplings[n].size != len(m)]:
            raise LotteryError(f"Nothing says where the units of '{odd[0]}' go: the couplings have no such group.")
        units = {name: mask[orders[name]] if name in orders else mask for name, mask in self.units.items()}
        masks = permute(self.distinct, couplings, orders)
        return replace(self._with(masks, {"transported": True}), units=units)

    def _drawn_anew(self, masks: dict[str, Tensor], how: dict[str, Any]) -> "Ticket":
        return replace(self._with(masks, how), units={})

    def _with(self, masks: dict[str, Tensor], how: dict[str, Any]) -> "Ticket":
        masks |= {alias: masks[name] for alias, name in self.ties.items()}
        ordered = {name: masks[name] for name in self.masks}
        return replace(self, masks=ordered, provenance={**self.provenance, **how})

    def save(self, path: str | os.PathLike[str] | Remote) -> None:
        """Write the ticket as safetensors, masks packed to bits; the file appears whole or not at all.

        Raises:
            LotteryError: The file cannot be written.
        """
        from safetensors.numpy import save

        masks = {f"parameter/{name}": mask for name, mask in self.distinct.items()}
        masks |= {f"unit/{name}": mask for name, mask in self.units.items()}
        packed = {name: np.packbits(mask.cpu().numpy()) for name, mask in masks.items()}
        header = {
            "version": VERSION,
            "shapes": {name: list(mask.shape) for name, mask in masks.items()},
            "order": list(self.masks),
            "ties": dict(self.ties),
            "provenance": dict(self.provenance),
        }
        try:
            _check_provenance(header["provenance"])
            text = json.dumps(header)
        except (TypeError, ValueError) as error:
            raise LotteryError(f"The provenance of a ticket is plain JSON values: {error}.") from error
        content = json.dumps({"digest": _digest(text, packed), "ticket": text})  # one key: safetensors shuffles several
        write_whole(location(path), save(packed, {FORMAT: content}), what="ticket")

    @classmethod
    def from_zeros(cls, module: nn.Module, scope: Scope | None = None) -> "Ticket":
        """The ticket that a module's exact zeros are, however it was pruned: each weight that is not zero is kept.

        Args:
            module: A pruned one.
            scope: Which parameters may be masked (default: ``Scope()``, weights of linear and convolution layers).

        Raises:
            LotteryError: No weight in scope is zero; one of them has nothing but zeros, which is more likely how it was
                initialised than what pruning left; or one that a scope leaves out because it is frozen or made of
                others at each call, as ``torch.nn.utils.prune`` does: exclude these, or make them plain weights; or the
                module holds shards of its weights.

        Example:
            >>> layer = nn.Linear(2, 1)
            >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
            >>> Ticket.from_zeros(layer).masks
            {'weight': tensor([[ True, False]])}
        """
        refuse_shards(module, "`Ticket.from_zeros`")
        scope = Scope() if scope is None else scope
        # A ticket would lack what is zero there. Recurrent layers and experts are out by their type, as everywhere.
        for each in scope.explain(module):
            if each.is_missed and (".parametrizations." in each.name or not each.reason.startswith("owned by")):
                raise LotteryError(
                    f"'{each.name}' is {each.reason}, so that its zeros would be in no ticket: make it a plain "
                    "trainable weight (`torch.nn.utils.prune.remove`, `requires_grad_`), or exclude it in `scope`."
                )
        params = scope.select(module)
        masks = {name: param.detach() != 0 for name, param in params.items()}
        if all(mask.all() for mask in masks.values()):
            raise LotteryError(f"No weight of {type(module).__name__} in {scope} is zero: there is no ticket in it.")
        if empty := [name for name, mask in masks.items() if not mask.any()]:
            raise LotteryError(
                f"'{empty[0]}' is all zero: if nothing pruned it, leave it out, Scope(exclude={tuple(empty)!r})."
            )
        origin = {"method": "zeros", "scope": repr(scope), "versions": versions("torch", "lightning_lottery")}
        return ticket_of(masks, ties(module), size_of(module), origin | {"weights": hash_of_tensors(params)})

    @classmethod
    def load(cls, path: str | os.PathLike[str] | Remote) -> "Ticket":
        """Read a ticket; nothing in the file is executed.

        Raises:
            LotteryError: No such file, not a ticket, truncated or changed since it was written, or a newer format.
        """
        metadata, packed = _read(location(path))
        try:
            content = json.loads(metadata[FORMAT])
            header = json.loads(content["ticket"])
            if not is_count(header["version"], 1):
                raise ValueError("its version is none")
            if header["version"] > VERSION:
                raise LotteryError(
                    f"The ticket '{path}' has format version {header['version']}, this lightning_lottery reads up to "
                    f"{VERSION}: upgrade it."
                )
            if content["digest"] != _digest(content["ticket"], packed):
                raise ValueError("its digest is another")
            masks = {name: unpack(packed[name], shape) for name, shape in header["shapes"].items()}
            params = {name.removeprefix("parameter/"): m for name, m in masks.items() if name.startswith("parameter/")}
            units = {name.removeprefix("unit/"): m for name, m in masks.items() if name.startswith("unit/")}
            if not isinstance(header["order"], list):
                raise TypeError("its order is no list")
            named = {name: params[header["ties"].get(name, name)] for name in header["order"]}
            _check_provenance(header["provenance"])
            return cls(masks=named, units=units, ties=header["ties"], provenance=header["provenance"])
        except LotteryError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise LotteryError(f"The ticket '{path}' is not what was written: it was changed or damaged.") from error


def ticket_of(
    masks: Mapping[str, Tensor], ties: Mapping[str, str], model_size: int, provenance: Mapping[str, Any]
) -> Ticket:
    """A ticket from masks under their first names: copied to the CPU, tied names and sparsities added.

    Args:
        masks: Parameter name to bool tensor.
        ties: Further names of the module's tied parameters to their first ones.
        model_size: Entries of all the module's parameters.
        provenance: Where the masks came from.
    """
    copies = {name: mask.detach().to("cpu", copy=True) for name, mask in masks.items()}
    tied = {alias: name for alias, name in ties.items() if name in copies}
    kept, total = count(copies)
    sparsities = {"sparsity": 1 - density(copies), "model_sparsity": (total - kept) / model_size}
    return Ticket(
        copies | {alias: copies[name] for alias, name in tied.items()},
        ties=tied,
        provenance={**sparsities, **provenance},
    )


def versions(*packages: str) -> dict[str, str | None]:
    """The installed version of each package; None for one that is used from its folder."""
    installed: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def _all_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under every one of their names."""
    params = named_parameters(module)
    return params | {alias: params[name] for alias, name in ties(module).items()}


def _read(path: Location) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """What a safetensors file says and holds; one that says nothing of a ticket is read no further."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        with opened(path) as file:
            start = file.read(8)
            header = file.read(min(int.from_bytes(start, "little"), LONGEST_HEADER))
            metadata = json.loads(header).get("__metadata__")
            if not isinstance(metadata, dict) or FORMAT not in metadata:
                raise LotteryError(f"'{path}' is a safetensors file, but not a ticket of lightning_lottery.")
            return metadata, load(start + header + file.read())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise LotteryError(f"There is no ticket at '{path}'.") from error
    except OSError as error:
        raise LotteryError(f"The ticket '{path}' cannot be read: {error.strerror or error}.") from error
    # `ValueError`: the header is no JSON, or no text in any encoding that JSON may have.
    except (SafetensorError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, LotteryError):
            raise
        raise LotteryError(
            f"'{path}' is not a ticket, or a truncated one: tickets are the .safetensors files that pruning callbacks, "
            "`imp` and `Ticket.save` write."
        ) from error


def _strip(name: str, prefix: str) -> str | None:
    # With its dot: "net" must not be stripped from "network.weight".
    dotted = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    return name.removeprefix(dotted) if name.startswith(dotted) else None


def _listed(misfits: Misfits) -> str:
    kinds = {
        "missing in the module": misfits.missing,
        "unknown as parameters": misfits.unknown,
        "mis-shaped": misfits.misshaped,
    }
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names)


def _digest(text: str, packed: Mapping[str, np.ndarray]) -> str:
    # Over the text that stands in the file, not over what it says: JSON may be written in more than one way.
    digest = blake2b(text.encode(), digest_size=16)
    for name in sorted(packed):
        digest.update(f"{name} {packed[name].dtype}".encode())
        digest.update(packed[name].tobytes())
    return digest.hexdigest()


def _check_provenance(provenance: Any) -> None:
    """Refuse what was not written from a ticket: anything but an object, or one nested deeper than tickets are."""
    level, depth = [provenance], 0
    if not isinstance(provenance, dict):
        raise ValueError("its provenance is no object")
    while level := [v for branch in level for v in (branch.values() if isinstance(branch, dict) else branch)]:
        level, depth = [value for value in level if isinstance(value, (dict, list))], depth + 1
        if depth > DEEPEST_PROVENANCE:
            raise ValueError("its provenance is nested too deep")


def unpack(packed: np.ndarray, shape: list[int]) -> Tensor:
    """A mask from its bits, of which 8 stand in a byte as ``numpy.packbits`` has them.

    Raises:
        ValueError: The bytes are not so many.
    """
    sizes_fit = all(is_count(size) and size <= MOST_ENTRIES for size in shape) and len(shape) <= MOST_DIMENSIONS
    # An empty mask may have any other size beside its 0, and torch multiplies these.
    sizes_fit = sizes_fit and math.prod(size for size in shape if size) <= MOST_ENTRIES
    entries = math.prod(shape) if sizes_fit else 0  # of a list of something else it may be anything
    if packed.dtype != np.uint8 or packed.shape != (-(-entries // 8),) or not sizes_fit:
        raise ValueError(f"{packed.shape} bytes do not hold {shape} bits")
    return torch.from_numpy(np.unpackbits(packed, count=entries).astype(bool)).view(shape)
