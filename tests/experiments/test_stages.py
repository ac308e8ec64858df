import pytest

from helpers.stages import write
from lightning_lottery import LotteryError
from lightning_lottery.experiments.stages import stages_of


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no stage: stages are files such as 01-dense.fit.yaml"),
        (["tiny.yaml", "dense.fit.yaml", "1-dense.fit.yml"], "has no stage"),
        (["1-a.fit.yaml", "01-b.fit.yaml"], "'(1-a|01-b).fit.yaml' and '(1-a|01-b).fit.yaml' .* have the same number"),
        (["1-a.train.yaml"], "asks for the subcommand 'train'; there are fit, validate, test, predict"),
    ],
)
def test_a_folder_that_is_no_recipe_is_refused(tmp_path, files, message):
    for name in files:
        (tmp_path / name).write_text("")
    with pytest.raises(LotteryError, match=message):
        stages_of(tmp_path)


def test_stages_come_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, {f"{number}-stage.fit": {} for number in (10, 9, 1, 2)})
    assert [stage.name for stage in stages_of(tmp_path)] == ["1-stage", "2-stage", "9-stage", "10-stage"]
