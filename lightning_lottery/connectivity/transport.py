"""Take a ticket to another initialisation, in the order in which its dense network lies nearest to that one's."""

import os
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_lottery.connectivity.aligning import Moved, aligner_of
from lightning_lottery.connectivity.batches import loader_of, split_of
from lightning_lottery.connectivity.path import read_networks
from lightning_lottery.files import hash_of_tensors
from lightning_lottery.ticket import Ticket


def transport(
    ticket: Ticket,
    module: LightningModule,
    data: Any,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    trainer: Trainer,
) -> tuple[Ticket, Moved]:
    """The ticket for another initialisation than the one that it was found from.

    Two dense networks, trained from both initialisations, say which units of the one are like which of the other. The
    weights of the second initialisation are then trained with the ticket in that order.

    Args:
        ticket: Found on the source, or on what the source was trained from.
        module: A module of the networks' kind; its own weights do not matter.
        data: LightningDataModule, or a loader; None for the module's own loader. A few samples of it show that units
            may change places.
        source: Checkpoint of the dense network that the ticket comes from, trained.
        target: Checkpoint of the dense network that was trained from the other initialisation.
        trainer: Of the project; it runs nothing.

    Returns:
        The ticket, and how many units of each group moved.

    Raises:
        LotteryError: A checkpoint or the ticket does not fit the module; no units that can be permuted.

    Source: Adnan et al. 2025, algorithm 1; weight matching by Ainsworth et al. 2023.
    """
    names = (str(source), str(target))
    networks = read_networks(names, module, trainer, aligned=True)
    ticket.require_fit(module)
    split = split_of(module, data)
    one, two = networks.states
    aligner = aligner_of(module, "", two, data, loader_of(module, data, split, trainer), split)
    orders = aligner.orders(two, one)
    moved = ticket.transported(aligner.by_plain_names, orders)
    hashes = {name: hash_of_tensors(state) for name, state in (("from", one), ("to", two))}
    return replace(moved, provenance={**moved.provenance, "transported": hashes}), aligner.moved(orders)
