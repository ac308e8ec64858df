"""The modules and data that the recipes use: networks, a classifier, learning rates, loaders, data sets."""

from lightning_lottery.zoo.augment import crop_flip_jitter
from lightning_lottery.zoo.classifier import ImageClassifier
from lightning_lottery.zoo.data import CIFAR10, Digits, FashionMNIST
from lightning_lottery.zoo.learning_rates import ConstantRate, CosineRate, LearningRate, MilestoneRate
from lightning_lottery.zoo.loader import SeededBatches
from lightning_lottery.zoo.networks import lenet_300_100, pretrained_vit, resnet, torchvision_model, vit

__all__ = [
    "lenet_300_100",
    "resnet",
    "vit",
    "pretrained_vit",
    "torchvision_model",
    "ImageClassifier",
    "LearningRate",
    "ConstantRate",
    "CosineRate",
    "MilestoneRate",
    "Digits",
    "FashionMNIST",
    "CIFAR10",
    "SeededBatches",
    "crop_flip_jitter",
]
