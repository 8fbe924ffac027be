"""The zoo: importing this package puts every network in it on offer (`pruners.registry.MODELS`)."""

from models import cifar as cifar
from models import imagenet as imagenet
