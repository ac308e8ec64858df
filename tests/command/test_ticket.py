import json

import pytest
import torch

from helpers.stages import config, fit, named
from lightning_lottery import LotteryError, Ticket
from lightning_lottery.command.main import main
from lightning_lottery.command.ticket import masked
from lightning_lottery.zoo import ImageClassifier


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.fixture
def tickets(here):
    """Two tickets of one layer, one of which has units and another layer as well."""
    Ticket({"a": mask([1, 1, 0, 0]), "b": mask([1, 0])}, provenance={"method": "PLATON", "step": 7}).save("one")
    Ticket({"a": mask([1, 0, 1, 0])}, units={"heads": mask(1, 0, 0)}).save("two")
    return "one", "two"


def shown(capsys, *words):
    main(["ticket", *words])
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_show_tells_each_layer_and_where_the_ticket_comes_from(tickets, capsys):
    text = shown(capsys, "show", "one")
    assert "3 of 6 weights kept: 50.0% removed" in text
    assert "a 1 x 4 2 4 50.0%" in text and "method: PLATON step: 7" in text
    assert "heads 1 3 66.7%" in shown(capsys, "show", "two")


def test_apply_masks_a_checkpoint_and_changes_nothing_else(tickets, here, capsys):
    weights = {"model.a": torch.ones(1, 4), "model.b": torch.ones(1, 2), "model.c": torch.ones(3)}
    torch.save({"state_dict": weights, "epoch": 3, "callbacks": {"x": [1]}}, "last.ckpt")
    Ticket({"a": mask([1, 1, 0, 0])}).save("inner")
    Ticket({f"model.{name}": value for name, value in Ticket.load("one").masks.items()}).save("outer")
    main(["ticket", "apply", "outer", "--ckpt-path", "last.ckpt", "--out", "masked.ckpt"])
    assert "masked.ckpt: 3 of 6 weights are zero." in capsys.readouterr().out
    written = torch.load("masked.ckpt", weights_only=True)
    assert written["epoch"] == 3 and written["callbacks"] == {"x": [1]}
    assert written["state_dict"]["model.a"].tolist() == [[1, 1, 0, 0]]
    assert written["state_dict"]["model.b"].tolist() == [[1, 0]]
    assert written["state_dict"]["model.c"].tolist() == [1, 1, 1]


def test_apply_masks_averages_plain_states_and_compiled_names_too():
    ticket = Ticket({"net.w": mask(1, 0)})
    plain = {"_orig_mod.w": torch.ones(2)}
    assert masked(plain, ticket, "net", "x")["_orig_mod.w"].tolist() == [1, 0]
    averaged = {"state_dict": {"net.w": torch.ones(2)}, "current_model_state": {"net.w": torch.ones(2)}}
    assert all(state["net.w"].tolist() == [1, 0] for state in masked(averaged, ticket, "", "x").values())
    assert averaged["state_dict"]["net.w"].tolist() == [1, 1]


def test_apply_masks_the_module_that_a_configuration_builds(here, capsys):
    content = config(fit())
    main(["ticket", "apply", *_ticket_of_a_layer(), "--config", content, "--out", "built.ckpt"])
    state = torch.load("built.ckpt", weights_only=True)["state_dict"]
    assert not state["network.classifier.weight"][0].any() and state["network.classifier.weight"][1].any()
    capsys.readouterr()
    main(["test", "--config", content, "--ckpt_path", "built.ckpt", "--trainer.logger", "false"])
    assert "test_acc" in capsys.readouterr().out


def _ticket_of_a_layer():
    rows = torch.ones(10, 8, dtype=torch.bool)
    rows[0] = False
    Ticket({"network.classifier.weight": rows}).save("layer")
    return ["layer"]


def test_what_cannot_be_is_one_sentence(tickets, refused, here):
    torch.save({"state_dict": {"a": torch.ones(4)}}, "last.ckpt")
    for name, content in {"torn.ckpt": b"none", "text.ckpt": b"hello", "empty": b"", "text": b"hello"}.items():
        (here / name).write_bytes(content)
    apply = ("ticket", "apply", "one")
    assert "Did you mean 'apply'? There are show, diff, apply, transport." in refused("ticket", "aply", "none")
    assert "`ticket diff` takes two tickets or more, got one." in refused("ticket", "diff", "one")
    assert "either a checkpoint (--ckpt_path) or a project" in refused(*apply)
    assert "has no weights 'b' (1 of the ticket's 2 are missing)" in refused(*apply, "--ckpt_path", "last.ckpt")
    for name in ("torn.ckpt", "text.ckpt", "empty"):
        words = refused(*apply, "--ckpt_path", name)
        assert words.startswith(f"'{name}' does not load as a checkpoint without executing what is in it: it is none")
    for name in ("last.ckpt", "empty", "text"):
        assert refused("ticket", "show", name) == (
            f"'{name}' is not a ticket, or a truncated one: tickets are the .safetensors files that pruning "
            "callbacks, `imp` and `Ticket.save` write."
        )
    assert "is not a ticket" in refused("ticket", "show", "last.ckpt")


@pytest.mark.parametrize(
    ("content", "ticket", "says"),
    [
        ([1], Ticket({"a": mask(1, 0)}), "holds no weights by name"),
        ({"state_dict": [1]}, Ticket({"a": mask(1, 0)}), "holds no weights by name"),
        ({1: 2}, Ticket({"a": mask(1, 0)}), "holds no weights by name"),
        ({"a": "x"}, Ticket({"a": mask(1, 0)}), "has 'a', which is no tensor"),
        ({"a": torch.ones(3)}, Ticket({"a": mask(1, 0)}), r"has 'a' in the shape \(3,\), the ticket in \(2,\)"),
        ({"a": torch.ones(3)}, Ticket({}, units={"heads": mask(1, 0)}), "shrink` removes those"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(content, ticket, says):
    with pytest.raises(LotteryError, match=says):
        masked(content, ticket, "", "x.ckpt")


def test_names_are_shown_as_they_are_whatever_brackets_they_have(here, capsys):
    Ticket({"heads.[cls].weight": mask(1, 0), "[bold]w[/x]": mask(1, 0)}).save("one")
    Ticket({"heads.[cls].weight": mask(1, 1), "other[/x]": mask(1, 0)}).save("two")
    main(["ticket", "show", "one"])
    main(["ticket", "diff", "one", "two"])
    shown = capsys.readouterr().out
    assert shown.count("heads.[cls].weight") == 2
    assert "[bold]w[/x] is only in the first." in shown and "other[/x] is only in the second." in shown


def test_show_with_a_project_tells_what_the_ticket_does_to_its_module(here, capsys):
    text = shown(capsys, "show", *_ticket_of_a_layer(), "--config", config(fit()))
    assert "┃ dead units ┃ multiply-adds ┃" in text
    assert "network.classifier.weight 10 x 8 72 80 10.0% 72 1 of 10" in text
    assert "of which" in text and "a theoretical speed-up of 1.0" in text


def test_show_does_not_take_a_weight_for_effective_because_a_penalty_holds_it(here, capsys, monkeypatch):
    def penalised(module, batch, batch_idx):
        return step(module, batch, batch_idx) + sum(param.square().sum() for param in module.parameters())

    step = ImageClassifier.training_step
    monkeypatch.setattr(ImageClassifier, "training_step", penalised)
    second = torch.ones(100, 300, dtype=torch.bool)
    second[:, 0] = False  # what leads to the first unit does nothing
    Ticket({"network.1.weight": torch.ones(300, 64, dtype=torch.bool), "network.3.weight": second}).save("cut")
    lenet = named("ImageClassifier", network=named("lightning_lottery.zoo.lenet_300_100", inputs=64))
    text = shown(capsys, "show", "cut", "--config", config({**fit(), "model": lenet}))
    assert "network.1.weight 300 x 64 19,200 19,200 0.0% 19,136 1 of 300" in text


def test_show_of_a_module_whose_forward_does_not_take_the_batch_runs_its_training_step(here, capsys, monkeypatch):
    forward = ImageClassifier.forward
    monkeypatch.setattr(ImageClassifier, "forward", lambda module, images, *, scale: forward(module, images * scale))
    monkeypatch.setattr(
        ImageClassifier, "training_step", lambda module, batch, _: module(batch[0], scale=1.0).square().mean()
    )
    with pytest.warns(UserWarning, match="`forward` of ImageClassifier fails .*: effective weights are those that"):
        text = shown(capsys, "show", *_ticket_of_a_layer(), "--config", config(fit()))
    assert "network.classifier.weight 10 x 8 72 80 10.0% 72 1 of 10" in text


def test_show_of_several_tickets_tells_means_and_writes_them(here, capsys, refused):
    rows = torch.ones(10, 8, dtype=torch.bool)
    for number in range(2):
        rows[number] = False
        Ticket({"network.classifier.weight": rows}).save(f"{number}")
    project = config(fit())
    text = shown(capsys, "show", "0", "1", "--config", project, "--out", "kept.json")
    assert "network.classifier.weight 68.0 68.0 1.5 100.00% 100.00% 100.00%" in text and "2 tickets" in text
    kept = {"kept": 68, "effective": 68, "dead units": 1.5, "share on a path": 1, "least": 1, "most": 1}
    assert json.loads((here / "kept.json").read_text()) == {
        "network.classifier.weight": kept,
        "all": kept,
        "tickets": 2,
    }
    assert "only the project tells: give it by --config" in refused("ticket", "show", "0", "1")
    Ticket({"a": mask(1, 0)}).save("2")
    assert "mask the same layers" in refused("ticket", "show", "0", "2")
    assert "`ticket apply` takes one ticket" in refused("ticket", "apply", "0", "1")


def test_transport_writes_a_ticket_for_another_initialisation(here, capsys, refused):
    from lightning_lottery.zoo import ImageClassifier, lenet_300_100

    for seed in (0, 1):
        torch.manual_seed(seed)
        module = ImageClassifier(lenet_300_100(inputs=64))
        torch.save({"state_dict": module.state_dict()}, f"{seed}.ckpt")
    name, weight = next((n, p) for n, p in module.named_parameters() if p.ndim > 1)
    Ticket({name: weight > 0}).save("one")
    network = {"class_path": "lightning_lottery.zoo.lenet_300_100", "init_args": {"inputs": 64}}
    model = {"class_path": "ImageClassifier", "init_args": {"network": network}}
    project = config({"model": model, "data": {"class_path": "Digits"}, "trainer": {"max_epochs": 1}})
    words = ("ticket", "transport", "one", "--config", project, "--source", "0.ckpt", "--target")
    main([*words, "1.ckpt"])
    assert "moved.safetensors: 3" in capsys.readouterr().out  # nearly all of 400 units
    moved = Ticket.load("moved.safetensors")
    assert moved.sparsity == Ticket.load("one").sparsity and moved.provenance["transported"].keys() == {"from", "to"}
    assert "There is no checkpoint 'none.ckpt'" in refused(*words, "none.ckpt")
    assert "needs the dense network that the ticket comes from (--source)" in refused("ticket", "transport", "one")
