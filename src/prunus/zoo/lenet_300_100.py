"""LeNet-300-100."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100 units (LeCun et al. 1998; the network of Han et al. 2015, arXiv:1506.02626).

    Inputs ``[n channels size size]``, logits ``[n classes]``; 266,610 parameters on 28×28 grey images.
    """

    def __init__(self, channels: int = 1, size: int = 28, classes: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * size * size, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.fc1(images.flatten(1)).relu()
        logits: Tensor = self.fc3(self.fc2(hidden).relu())
        return logits
