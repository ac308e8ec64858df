"""Sentences and their labels: read once, tokenised once, padded batch by batch."""

import csv
import itertools
import lzma
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lightning_lottery.checks import check_count, check_fraction
from lightning_lottery.errors import LotteryError
from lightning_lottery.zoo.in_memory import InMemory, Samples, hold_out, in_fifths
from lightning_lottery.zoo.loader import Prepare
from lightning_lottery.zoo.pretrained import published

Tokenizer = Callable[[Sequence[str]], list[list[int]]]
NO_TOKEN = -1  # behind the end of a stored sentence; what padding a batch gets is the tokenizer's choice
LARGEST_VOCABULARY = 10_000


class _Sentences(InMemory):
    """Tokens (N, longest), int32, served as ``input_ids`` and ``attention_mask`` of the batch's longest sentence."""

    num_classes = 2
    padding = 0

    def _prepare(self, split: str) -> Prepare:
        return partial(_padded, padding=self.padding)


def _padded(tokens: Tensor, _: torch.Generator, padding: int) -> dict[str, Tensor]:
    is_token = tokens != NO_TOKEN
    longest = int(is_token.sum(dim=1).max())
    tokens, is_token = tokens[:, :longest].long(), is_token[:, :longest]
    return {"input_ids": tokens.masked_fill(~is_token, padding), "attention_mask": is_token.long()}


class SST2(_Sentences):
    """The Stanford sentiment treebank, two classes: phrases of film reviews, negative (0) or positive (1).

    The folder has GLUE's files ``train.tsv`` and ``dev.tsv``, or the same as ``.tsv.xz``: a first line
    ``sentence<TAB>label``, then one such pair a line, without quoting. Validation is held out of train; dev is the test
    set. Many training phrases are parts of one sentence, so that validation (and a test set split off in the same way)
    looks better than sentences never seen would.

    Args:
        root: The folder; default "data/sst2". Nothing is downloaded.
        batch_size: Samples of a batch on one device; default 32.
        tokenizer: The network's: a name on the Hugging Face hub, or a folder that ``save_pretrained`` wrote; or
            "words", which needs neither: see ``words_of``. Default "sentence-transformers/all-MiniLM-L6-v2".
        max_length: At most so many tokens of a sentence, the rest is cut; at least 3. Default 128.
        val_fraction: Of train, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: Of the order, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training sentences; default: all.

    Raises:
        LotteryError: An argument is out of range, a file is missing or not as described, or there is no such
            tokenizer.

    Source: Socher et al. 2013, "Recursive deep models for semantic compositionality over a sentiment treebank", in the
    files of GLUE, Wang et al. 2019.
    """

    def __init__(
        self,
        root: str = "data/sst2",
        batch_size: int = 32,
        *,
        tokenizer: str = "sentence-transformers/all-MiniLM-L6-v2",
        max_length: int = 128,
        val_fraction: float = 0.1,
        seed: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit)
        check_fraction("val_fraction", val_fraction, "the fraction held out for validation", zero=False)
        check_count("max_length", max_length, "a number of tokens, enough for a word between two marks,", least=3)
        self.root, self.tokenizer, self.max_length, self.val_fraction = root, tokenizer, max_length, val_fraction

    def _read(self) -> dict[str, Samples]:
        root = Path(self.root).expanduser()
        sentences, labels = read_tsv(root, "train")
        parts = hold_out(torch.arange(len(labels)), labels, self.val_fraction, "SST2")
        texts = {split: [sentences[i] for i in indices] for split, (indices, _) in parts.items()}
        texts["test"], test_labels = read_tsv(root, "dev")
        if self.tokenizer == "words":
            tokenize: Tokenizer = partial(words_of, vocabulary=vocabulary_of(texts["train"]))
        else:
            tokenize, self.padding = _published_tokenizer(self.tokenizer, self.max_length)
        targets = {split: labels for split, (_, labels) in parts.items()} | {"test": test_labels}
        return {split: (_stored(tokenize(texts[split]), self.max_length), targets[split]) for split in targets}


class ToyReviews(_Sentences):
    """300 generated sentences about films, "the plot is not dull", positive (1) or negative (0); for a first try.

    Every combination of a noun, an adverb or "not", and a word of praise or blame, which "not" turns round; words are
    tokens, see ``words_of``. 60 % train, 20 % val, 20 % test.

    Args:
        batch_size: Samples of a batch on one device; default 16.
        seed: Of the order, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many training sentences; default: all.

    Raises:
        LotteryError: ``batch_size`` or ``limit`` is smaller than 1.

    Example:
        >>> tokens, labels = next(iter(ToyReviews(batch_size=4).test_dataloader()))
        >>> tokens["input_ids"].shape, labels.shape
        (torch.Size([4, 6]), torch.Size([4]))
    """

    def __init__(self, batch_size: int = 16, *, seed: int | None = None, limit: int | None = None) -> None:
        super().__init__(batch_size, seed, limit)

    def _read(self) -> dict[str, Samples]:
        sentences, labels = _toy_reviews()
        tokens = words_of(sentences, vocabulary_of(sentences))
        return in_fifths(_stored(tokens, max_length=6), labels)


def _toy_reviews() -> tuple[list[str], Tensor]:
    nouns = ("film", "plot", "cast", "script", "ending", "music")
    adverbs = ("", "very ", "quite ", "simply ", "not ")
    praise, blame = ("good", "moving", "clever", "funny", "fresh"), ("bad", "dull", "silly", "slow", "stale")
    combinations = list(itertools.product(nouns, adverbs, praise + blame))
    sentences = [f"the {noun} is {adverb}{adjective}" for noun, adverb, adjective in combinations]
    return sentences, torch.tensor([(word in praise) != (adverb == "not ") for _, adverb, word in combinations]).long()


class SST2Stream(InMemory):
    """The phrases of ``SST2`` one after another, as one text for a language model, cut into pieces of equal length.

    A token is a word (see ``words_of``, whose 2 begins every phrase). A batch is the tokens of its pieces (B, length),
    and of each the token that comes next (B,), so that each of the ``length`` places has one to foretell. Many phrases
    are parts of others, so that a network foretells them better than text never seen.

    Args:
        root: The folder with ``train.tsv`` and ``dev.tsv``, or the same as ``.tsv.xz``; default "data/sst2".
        batch_size: Pieces of a batch on one device; default 32.
        length: Tokens of a piece; default 32.
        vocabulary: Most different tokens, the most frequent words of train and three more; default 2,000.
        val_fraction: Of train, in (0, 1), held out for validation, the same in every run; default 0.1.
        seed: Of the order, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many pieces to train on; default: all.

    Raises:
        LotteryError: An argument is out of range, or a file is missing, not as described, or shorter than a piece.

    Source: as of ``SST2``.
    """

    num_classes = 0  # of the pieces; tokens have `vocabulary` ones

    def __init__(
        self,
        root: str = "data/sst2",
        batch_size: int = 32,
        *,
        length: int = 32,
        vocabulary: int = 2_000,
        val_fraction: float = 0.1,
        seed: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size, seed, limit)
        check_fraction("val_fraction", val_fraction, "the fraction held out for validation", zero=False)
        check_count("length", length, "a number of tokens")
        check_count("vocabulary", vocabulary, "a number of tokens", least=4)
        self.root, self.length, self.vocabulary, self.val_fraction = root, length, vocabulary, val_fraction

    def _prepare(self, split: str) -> Prepare:
        return _as_they_are

    def _sentences(self) -> tuple[Sequence[str], Sequence[str]]:
        """Those to train and validate on, and those to test on."""
        root = Path(self.root).expanduser()
        return read_tsv(root, "train")[0], read_tsv(root, "dev")[0]

    def _read(self) -> dict[str, Samples]:
        train, test = self._sentences()
        tokens = partial(words_of, vocabulary=vocabulary_of(train, self.vocabulary))
        return {
            **hold_out(*_pieces(tokens(train), self.length), self.val_fraction, type(self).__name__),
            "test": _pieces(tokens(test), self.length),
        }


class ToyStream(SST2Stream):
    """The sentences of ``ToyReviews`` as such a text, for a first try: every fifth one is to test on.

    Args:
        batch_size: Pieces of a batch on one device; default 16.
        length: Tokens of a piece; default 8.
        seed: Of the order, not of the split; default: the run's (``PL_GLOBAL_SEED``), else 0.
        limit: At most so many pieces to train on; default: all.

    Raises:
        LotteryError: A number is smaller than 1.

    Example:
        >>> tokens, following = next(iter(ToyStream(batch_size=4).test_dataloader()))
        >>> tokens.shape, following.shape
        (torch.Size([4, 8]), torch.Size([4]))
    """

    def __init__(
        self, batch_size: int = 16, *, length: int = 8, seed: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__("", batch_size, length=length, seed=seed, limit=limit)

    def _sentences(self) -> tuple[Sequence[str], Sequence[str]]:
        sentences, _ = _toy_reviews()
        return [sentence for number, sentence in enumerate(sentences) if number % 5], sentences[::5]


def _as_they_are(tokens: Tensor, _: torch.Generator) -> Tensor:
    return tokens.long()


def _pieces(tokens: Sequence[Sequence[int]], length: int) -> Samples:
    """All sentences behind one another, in pieces (N, length), int32, and the token behind each (N,), int64."""
    stream = torch.tensor([token for sentence in tokens for token in sentence], dtype=torch.int32)
    count = (len(stream) - 1) // length  # the last piece needs a token behind it
    if count < 1:
        raise LotteryError(f"A text of {len(stream)} tokens has no piece of {length} and a token behind it.")
    return stream[: count * length].view(count, length), stream[length : count * length + 1 : length].long()


def read_tsv(root: Path, name: str) -> tuple[list[str], Tensor]:
    """The sentences and labels of ``<root>/<name>.tsv``, or of ``<name>.tsv.xz`` where that is not there.

    Args:
        root: The folder.
        name: Of the file, without its ending.

    Returns:
        N sentences without white space around them, and labels (N,), int64, 0 or 1.

    Raises:
        LotteryError: Neither file is there, or it has another header, a line that is not such a pair, or nothing.
    """
    path = next((p for p in (root / f"{name}.tsv", root / f"{name}.tsv.xz") if p.is_file()), None)
    if path is None:
        raise LotteryError(
            f"SST2 needs {name}.tsv or {name}.tsv.xz, as GLUE has them, in {str(root)!r}, and there is neither: give "
            "the folder that has them as root."
        )
    opened = lzma.open if path.suffix == ".xz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError, csv.Error) as error:
        raise LotteryError(f"{path} cannot be read ({error}): replace it.") from error
    if rows[:1] != [["sentence", "label"]] or len(rows) < 2:
        raise LotteryError(f"{path} must begin with a line sentence<TAB>label and have sentences below it.")
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != 2 or not row[0].strip() or row[1] not in ("0", "1"):
            raise LotteryError(f"Line {line} of {path} must be a sentence, a tab, and 0 or 1; it is {row}.")
    return [row[0].strip() for row in rows[1:]], torch.tensor([int(row[1]) for row in rows[1:]])


def vocabulary_of(sentences: Sequence[str], size: int | None = None) -> dict[str, int]:
    """The number of every word, what stands between white space in lower case; 0 to 2 are left to ``words_of``.

    Args:
        sentences: N.
        size: Most tokens, those three counted in; default 10,000.

    Returns:
        The ``size - 3`` most frequent words, or all, the most frequent first; of equally frequent ones the first by the
        alphabet.

    Example:
        >>> vocabulary_of(["a dull plot", "A moving plot"])
        {'a': 3, 'plot': 4, 'dull': 5, 'moving': 6}
    """
    counts = Counter(word for sentence in sentences for word in sentence.lower().split())
    words = sorted(counts, key=lambda word: (-counts[word], word))[: (size or LARGEST_VOCABULARY) - 3]
    return {word: number for number, word in enumerate(words, start=3)}


def words_of(sentences: Sequence[str], vocabulary: dict[str, int]) -> list[list[int]]:
    """The tokens of every sentence: 2, then the number of each word, 1 where it has none; 0 is left for padding.

    Args:
        sentences: N.
        vocabulary: As ``vocabulary_of`` makes it.

    Returns:
        N lists.

    Example:
        >>> words_of(["A fine plot"], {"a": 3, "plot": 4})
        [[2, 3, 1, 4]]
    """
    return [[2, *(vocabulary.get(word, 1) for word in sentence.lower().split())] for sentence in sentences]


def _published_tokenizer(name: str, max_length: int) -> tuple[Tokenizer, int]:
    """A tokenizer of Hugging Face's, and the token that it pads with."""
    from transformers import AutoTokenizer

    with published(f"tokenizer {name!r}"):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token_id is None:
        raise LotteryError(f"The tokenizer {name!r} has no token to pad with: take one of a network that classifies.")

    def tokenize(sentences: Sequence[str]) -> list[list[int]]:
        tokens: list[list[int]] = tokenizer(list(sentences), truncation=True, max_length=max_length)["input_ids"]
        return tokens

    return tokenize, int(tokenizer.pad_token_id)


def _stored(tokens: Sequence[Sequence[int]], max_length: int) -> Tensor:
    """All sentences as one tensor, (N, longest), int32."""
    rows = [torch.tensor(sentence[:max_length], dtype=torch.int32) for sentence in tokens]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NO_TOKEN)
