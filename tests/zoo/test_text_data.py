import json
import lzma
from types import SimpleNamespace

import pytest
import torch

from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo import SST2, SST2Stream, ToyReviews, ToyStream, text_data
from lightning_lottery.zoo.text_data import _toy_reviews, read_tsv, vocabulary_of, words_of

SPLITS = ("train", "val", "test")
HEADER = "sentence\tlabel\n"


def tsv(numbers) -> str:
    """A sentence for each number, of so many words, labelled by whether it is odd."""
    return HEADER + "".join(f"{'film ' * number}\t{number % 2}\n" for number in numbers)


@pytest.fixture
def root(tmp_path):
    """Sentences of 1 to 40 words to train and validate, and of 41 to 47 to test."""
    (tmp_path / "train.tsv").write_text(tsv(range(1, 41)))
    (tmp_path / "dev.tsv").write_text(tsv(range(41, 48)))
    return tmp_path


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a tokenizer that knows two words, "film" is 5, and pads with 3."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nfilm\ngood\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def words(root, **arguments) -> SST2:
    return SST2(str(root), tokenizer="words", **arguments)


def served(loader) -> list[list[int]]:
    """The lengths of the sentences of every batch, in words."""
    return [(tokens["attention_mask"].sum(1) - 1).tolist() for tokens, _ in loader]


def flat(lists) -> list[int]:
    return [entry for part in lists for entry in part]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"limit": 0}, "limit"),
        ({"max_length": 2}, "max_length"),
        ({"val_fraction": 0.0}, "val_fraction"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ],
)
def test_arguments_out_of_range_are_refused_when_built(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        SST2(**arguments)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must begin with a line sentence<TAB>label"),
        (b"sentence\tlabel\n", "sentences below it"),
        (b"good film\t1\n", "must begin with a line sentence<TAB>label"),
        (b"sentence\tlabel\ngood\t1\nbad\t2\n", "Line 3 of"),
        (b"sentence\tlabel\ngood film\n", "Line 2 of"),
        (b"sentence\tlabel\ngood\tfilm\t1\n", "Line 2 of"),
        (b"sentence\tlabel\n \t1\n", "Line 2 of"),
        (b"sentence\tlabel\n\ngood\t1\n", "Line 2 of"),
        (b"sentence\tlabel\n\xff\xfe\t1\n", "cannot be read"),
        (HEADER.encode() + b"long " * 30_000 + b"\t1\n", "cannot be read"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_something_else_is_refused_by_its_name(content, reason, packed, tmp_path):
    path = tmp_path / ("dev.tsv.xz" if packed else "dev.tsv")
    path.write_bytes(lzma.compress(content) if packed else content)
    with pytest.raises(LotteryError, match=reason) as refusal:
        read_tsv(tmp_path, "dev")
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("end", [-8, 8, 0])
def test_a_packed_file_that_was_cut_off_is_refused(end, tmp_path):
    (tmp_path / "dev.tsv.xz").write_bytes(lzma.compress(tsv(range(9)).encode())[:end])
    with pytest.raises(LotteryError, match="dev.tsv.xz cannot be read|must begin"):
        read_tsv(tmp_path, "dev")


def test_a_folder_without_the_files_is_refused_with_their_names(tmp_path, root):
    with pytest.raises(LotteryError, match=r"train.tsv or train.tsv.xz"):
        words(tmp_path / "nowhere").prepare_data()
    (root / "dev.tsv").unlink()
    with pytest.raises(LotteryError, match=r"dev.tsv or dev.tsv.xz"):
        words(root).prepare_data()


def test_quotes_and_accents_are_read_as_they_stand(tmp_path):
    content = HEADER + '"good\t1\n" so \'called\' "art" \t0\ncliché \t0\n'
    (tmp_path / "dev.tsv").write_text(content, encoding="utf-8")
    sentences, labels = read_tsv(tmp_path, "dev")
    assert sentences == ['"good', '" so \'called\' "art"', "cliché"]
    assert labels.tolist() == [1, 0, 0]
    assert labels.dtype == torch.int64


def test_packed_files_are_read_like_plain_ones(root):
    plain = words(root)
    plain.prepare_data()
    for name in ("train.tsv", "dev.tsv"):
        (root / f"{name}.xz").write_bytes(lzma.compress((root / name).read_bytes()))
        (root / name).unlink()
    packed = words(root)
    assert all(torch.equal(a, b) for s in SPLITS for a, b in zip(plain.samples(s), packed.samples(s), strict=True))


def test_train_is_split_without_loss_and_dev_is_the_test_set(root):
    data = words(root, val_fraction=0.25)
    train, val, test = (
        served(loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    )
    assert (len(flat(train)), len(flat(val))) == (30, 10)
    assert sorted(flat(train) + flat(val)) == list(range(1, 41))
    assert flat(test) == flat(served(data.predict_dataloader())) == list(range(41, 48))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_labels_stay_with_their_sentences(root, batch_size):
    data = words(root, batch_size=batch_size)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for tokens, labels in loader:
            assert torch.equal((tokens["attention_mask"].sum(1) - 1) % 2, labels)


def test_the_split_does_not_depend_on_the_seed_and_the_order_of_training_does(root, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    by_run, by_seed, by_another = words(root), words(root, seed=7), words(root, seed=8)
    assert all(torch.equal(by_run.samples(split)[0], by_another.samples(split)[0]) for split in SPLITS)
    assert (
        served(by_run.train_dataloader()) == served(by_seed.train_dataloader()) != served(by_another.train_dataloader())
    )
    assert served(by_run.val_dataloader()) == served(by_another.val_dataloader())


def test_limit_shortens_training_only_and_leaves_the_vocabulary_alone(root):
    whole, short = words(root), words(root, limit=3)
    assert torch.equal(short.samples("train")[0], whole.samples("train")[0][:3])
    assert all(torch.equal(short.samples(split)[0], whole.samples(split)[0]) for split in ("val", "test"))


def test_a_batch_is_padded_to_its_longest_sentence_with_zeros_under_a_mask_of_zero(root):
    (root / "dev.tsv").write_text(tsv([1, 3, 2]))
    first, second = words(root, batch_size=2).test_dataloader()
    assert first[0]["input_ids"].tolist() == [[2, 3, 0, 0], [2, 3, 3, 3]]
    assert first[0]["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert second[0]["input_ids"].tolist() == [[2, 3, 3]]
    assert {tensor.dtype for tensor in first[0].values()} == {torch.int64}


def test_a_sentence_is_cut_at_max_length(root):
    (root / "dev.tsv").write_text(tsv([1, 4]))
    ((tokens, _),) = words(root, max_length=3).test_dataloader()
    assert tokens["input_ids"].tolist() == [[2, 3, 0], [2, 3, 3]]


def test_words_are_known_from_the_training_part_alone(tmp_path):
    for name, count in (("train", 20), ("dev", 5)):
        (tmp_path / f"{name}.tsv").write_text(HEADER + "".join(f"{name}{i}\t0\n" for i in range(count)))
    data = words(tmp_path)
    train, val, test = (data.samples(split)[0] for split in SPLITS)
    assert sorted(train[:, 1].tolist()) == list(range(3, 21))
    assert set(val[:, 1].tolist()) == set(test[:, 1].tolist()) == {1}


def test_the_vocabulary_keeps_the_most_frequent_words_in_lower_case(monkeypatch):
    sentences = ["b c", "C  a\tb", "d a c"]
    assert vocabulary_of(sentences) == {"c": 3, "a": 4, "b": 5, "d": 6}
    monkeypatch.setattr(text_data, "LARGEST_VOCABULARY", 5)
    assert vocabulary_of(sentences) == {"c": 3, "a": 4}
    assert words_of(["D a", ""], vocabulary_of(sentences)) == [[2, 1, 4], [2]]


def test_a_tokenizer_in_a_folder_marks_cuts_and_pads_as_it_does(root, tokenizer):
    (root / "dev.tsv").write_text(HEADER + "a film\t0\nFilm\t1\ngood good film film\t1\n")
    data = SST2(str(root), tokenizer=str(tokenizer), max_length=4)
    ((tokens, labels),) = data.test_dataloader()
    assert tokens["input_ids"].tolist() == [[1, 0, 5, 2], [1, 5, 2, 3], [1, 6, 6, 2]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert labels.tolist() == [0, 1, 1]


def test_a_tokenizer_that_is_not_here_and_cannot_be_fetched_is_refused_by_name(root, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LotteryError, match="tokenizer 'nobody/has-this'"):
        SST2(str(root), tokenizer="nobody/has-this").prepare_data()


def test_a_tokenizer_that_cannot_pad_is_refused(root, tokenizer, monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda name: SimpleNamespace(pad_token_id=None))
    with pytest.raises(LotteryError, match="no token to pad with"):
        SST2(str(root), tokenizer=str(tokenizer)).prepare_data()


def test_reading_and_tokenizing_happen_once(root, monkeypatch):
    data = words(root)
    data.prepare_data()
    monkeypatch.setattr(SST2, "_read", None)
    data.setup("fit")
    data.setup("test")
    assert served(data.train_dataloader()) == served(data.train_dataloader())


def test_ranks_share_the_sentences(root):
    data = words(root, batch_size=3)
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        shares.append((served(data.train_dataloader()), served(data.test_dataloader())))
    (train, test), (other_train, other_test) = shares
    assert sorted(flat(test) + flat(other_test)) == list(range(41, 48))
    assert len(train) == len(other_train)
    assert len({*flat(train), *flat(other_train)}) == 36


def test_toy_reviews_are_all_different_half_of_them_positive():
    data = ToyReviews()
    tokens = torch.cat([data.samples(split)[0] for split in SPLITS])
    labels = torch.cat([data.samples(split)[1] for split in SPLITS])
    assert len({tuple(row) for row in tokens.tolist()}) == len(labels) == 300
    assert labels.sum() == 150
    assert 1 not in tokens


def test_toy_reviews_turn_round_with_a_not():
    data = ToyReviews()
    tokens = torch.cat([data.samples(split)[0] for split in SPLITS]).tolist()
    labels = torch.cat([data.samples(split)[1] for split in SPLITS]).tolist()
    label_of = {tuple(token for token in row if token >= 0): label for row, label in zip(tokens, labels, strict=True)}
    plain = {row: label for row, label in label_of.items() if len(row) == 5}
    assert len(plain) == 60
    for (*begin, word), label in plain.items():
        variants = [
            variant for row, variant in label_of.items() if len(row) == 6 and [*row[:4], row[5]] == [*begin, word]
        ]
        assert sorted(variant == label for variant in variants) == [False, True, True, True]


def test_a_stream_is_all_sentences_behind_one_another_with_the_token_after_each_piece():
    data = ToyStream(length=8)
    test = [sentence for number, sentence in enumerate(_toy_reviews()[0]) if number % 5 == 0]
    train = [sentence for number, sentence in enumerate(_toy_reviews()[0]) if number % 5]
    stream = [token for sentence in words_of(test, vocabulary_of(train)) for token in sentence]
    pieces, following = data.samples("test")
    assert pieces.flatten().tolist() == stream[: pieces.numel()]
    assert following.tolist() == stream[8 : pieces.numel() + 1 : 8]
    assert len(stream) - pieces.numel() <= 8


def test_a_stream_of_sst2_knows_as_many_words_as_asked_and_holds_out_a_part_of_train(tmp_path):
    for name, count in (("train", 40), ("dev", 10)):
        lines = [f"word{number % 9} and word{number % 4} again\t{number % 2}" for number in range(count)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    data = SST2Stream(str(tmp_path), length=6, vocabulary=7, val_fraction=0.25)
    sizes = {split: len(data.samples(split)[0]) for split in ("train", "val", "test")}
    assert sizes == {"train": 25, "val": 8, "test": 8}  # of 40 and 10 phrases of five tokens, one of them left over
    assert {int(token) for split in sizes for token in data.samples(split)[0].unique()} == set(range(1, 7))
    tokens, following = next(iter(data.train_dataloader()))
    assert tokens.dtype == following.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"length": 0}, "length"), ({"vocabulary": 3}, "vocabulary"), ({"val_fraction": 1.0}, "val")],
)
def test_a_stream_that_cannot_be_is_refused_when_built(arguments, reason):
    with pytest.raises(LotteryError, match=reason):
        SST2Stream(**arguments)


def test_a_text_shorter_than_a_piece_is_refused():
    with pytest.raises(LotteryError, match=r"A text of \d+ tokens has no piece of 5000"):
        ToyStream(length=5_000).samples("train")
