import pytest

from lightning_lottery.command import warm


def test_what_children_import_is_imported_and_a_fork_does_its_child(monkeypatch):
    imported, done = [], []

    def import_module(name):
        imported.append(name)
        if name == "torchvision":
            raise ImportError("not installed")

    monkeypatch.setattr(warm, "import_module", import_module)
    monkeypatch.setattr(warm, "serve", lambda listening: ["child", f"runs/{listening}", "--wait"])
    monkeypatch.setattr(warm, "child", done.append)
    warm.warm(["7"])
    assert imported == [*warm.PRELOADED] and done == [["runs/7", "--wait"]]


def test_the_nursery_itself_leaves_without_a_child(monkeypatch):
    def nobody(_):
        raise SystemExit

    monkeypatch.setattr(warm, "import_module", lambda name: None)
    monkeypatch.setattr(warm, "serve", nobody)
    monkeypatch.setattr(warm, "child", lambda _: pytest.fail("no fork"))
    with pytest.raises(SystemExit):
        warm.warm(["7"])
