"""LeNet-5, in Caffe's shape."""

from __future__ import annotations

from torch import Tensor, nn

_LEAST = 16


class LeNet5(nn.Module):
    """Two 5×5 convolutions of 20 and 50 channels, each pooled, then 500 units: Caffe's LeNet, which Han et al. 2015
    (arXiv:1506.02626) and Deep Compression (arXiv:1510.00149) count.

    Inputs ``[n channels size size]``, logits ``[n classes]``; 431,080 parameters on 28×28 grey images.

    Raises:
        ValueError: if ``size`` is under 16, where nothing is left behind the second pooling.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10) -> None:
        super().__init__()
        if size < _LEAST:
            raise ValueError(f"lenet-5 pools away images of {size}×{size}; it needs at least {_LEAST}×{_LEAST}")
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.pool(self.conv2(self.pool(self.conv1(images))))
        logits: Tensor = self.fc2(self.fc1(pooled.flatten(1)).relu())
        return logits
