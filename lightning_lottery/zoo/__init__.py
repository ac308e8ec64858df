"""The modules and data that the recipes use: networks, classifiers, learning rates, loaders, data sets."""

from lightning_lottery.zoo.augment import crop_flip_jitter
from lightning_lottery.zoo.classifier import ImageClassifier
from lightning_lottery.zoo.data import CIFAR10, MNIST, Digits, FashionMNIST
from lightning_lottery.zoo.image_files import ImageFolder
from lightning_lottery.zoo.language_model import LanguageModel
from lightning_lottery.zoo.learning_rates import ConstantRate, CosineRate, LearningRate, MilestoneRate
from lightning_lottery.zoo.loader import SeededBatches
from lightning_lottery.zoo.networks import bert, gpt2, lenet_5, lenet_300_100, resnet, vit
from lightning_lottery.zoo.pretrained import (
    pretrained_text,
    pretrained_vit,
    random_text,
    random_vit,
    torchvision_model,
    with_weights,
)
from lightning_lottery.zoo.text_classifier import TextClassifier
from lightning_lottery.zoo.text_data import SST2, SST2Stream, ToyReviews, ToyStream

__all__ = [
    "lenet_300_100",
    "lenet_5",
    "resnet",
    "vit",
    "bert",
    "gpt2",
    "pretrained_vit",
    "random_vit",
    "pretrained_text",
    "random_text",
    "torchvision_model",
    "with_weights",
    "ImageClassifier",
    "TextClassifier",
    "LanguageModel",
    "LearningRate",
    "ConstantRate",
    "CosineRate",
    "MilestoneRate",
    "Digits",
    "MNIST",
    "FashionMNIST",
    "CIFAR10",
    "ImageFolder",
    "SST2",
    "SST2Stream",
    "ToyReviews",
    "ToyStream",
    "SeededBatches",
    "crop_flip_jitter",
]
