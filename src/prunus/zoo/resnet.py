"""Residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import pad


class Shortcut(nn.Module):
    """Every ``stride``-th place, and zeros for channels that there were none of: a shortcut without parameters
    (option A of arXiv:1512.03385)."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = more, stride

    def forward(self, x: Tensor) -> Tensor:
        before = self.more // 2
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.more - before))


class Block(nn.Module):
    """Two 3×3 convolutions with batch norms beside a shortcut, which is the identity where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.shortcut = project if projection else Shortcut(outputs - inputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        summed: Tensor = y + self.shortcut(x)
        return summed.relu()


class ResNet(nn.Module):
    """A 3×3 stem, stages of residual blocks that halve the image from the second stage on, the mean over places, a
    linear layer. Convolutions begin as He et al. have it (normal, by what goes out)."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int], blocks: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for number, outputs in enumerate(widths):
            first = Block(inputs, outputs, 2 if number else 1, projection)
            stages.append(nn.Sequential(first, *(Block(outputs, outputs, 1, projection) for _ in range(blocks - 1))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stages(self.bn1(self.conv1(images)).relu())
        logits: Tensor = self.fc(hidden.mean((2, 3)))
        return logits


def resnet20(channels: int = 3, classes: int = 10, shortcut: Literal["zeros", "projection"] = "zeros") -> ResNet:
    """ResNet-20 for CIFAR (He et al. 2015, arXiv:1512.03385): three stages of three blocks, 16, 32 and 64 channels.

    Inputs ``[n channels H W]``, made for 32×32; 269,722 parameters with colour and 10 classes, and shortcuts of ``zeros``
    as in the paper's CIFAR networks; 272,474 with ``projection``.
    """
    return ResNet(channels, classes, (16, 32, 64), 3, shortcut == "projection")


def resnet18(channels: int = 3, classes: int = 10, width: int = 64) -> ResNet:
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) with the stem that CIFAR's 32×32 images want: 3×3, stride 1, no
    pooling.

    Inputs ``[n channels H W]``; 11,173,962 parameters with colour and 10 classes, 11,172,810 with grey, and a first stage
    of 64 channels (``width``).
    """
    return ResNet(channels, classes, (width, 2 * width, 4 * width, 8 * width), 2, projection=True)
