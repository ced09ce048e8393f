"""AlexNet, in Caffe's shape."""

from __future__ import annotations

from torch import Tensor, nn

_SIZES = (227, 224)


class AlexNet(nn.Module):
    """Five convolutions, of which the second, fourth and fifth are in two groups, and three linear layers (Krizhevsky et
    al. 2012, https://papers.nips.cc/paper/4824, as in Caffe's model zoo, which Han et al. 2015 prune).

    Inputs ``[n channels size size]``, 227 as Caffe crops them, or 224, which are padded; logits ``[n classes]``;
    60,965,224 parameters with colour and 1000 classes.

    Raises:
        ValueError: if ``size`` is neither of both.
    """

    def __init__(self, channels: int = 3, size: int = 227, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if size not in _SIZES:
            raise ValueError(f"alexnet takes images of {' or '.join(map(str, _SIZES))} pixels, not {size}")
        self.features = nn.Sequential()
        layers = (
            ("conv1", nn.Conv2d(channels, 96, 11, stride=4, padding=0 if size == 227 else 2)),
            ("conv2", nn.Conv2d(96, 256, 5, padding=2, groups=2)),
            ("conv3", nn.Conv2d(256, 384, 3, padding=1)),
            ("conv4", nn.Conv2d(384, 384, 3, padding=1, groups=2)),
            ("conv5", nn.Conv2d(384, 256, 3, padding=1, groups=2)),
        )
        for name, conv in layers:
            self.features.add_module(name, conv)
            self.features.add_module(name.replace("conv", "relu"), nn.ReLU())
            if name in ("conv1", "conv2"):
                self.features.add_module(name.replace("conv", "norm"), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75))
            if name in ("conv1", "conv2", "conv5"):
                self.features.add_module(name.replace("conv", "pool"), nn.MaxPool2d(3, 2))
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.dropout(self.fc6(self.features(images).flatten(1)).relu())
        logits: Tensor = self.fc8(self.dropout(self.fc7(hidden).relu()))
        return logits
