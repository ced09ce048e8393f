"""Convolutional networks as people write them, small: what tests of channels are run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = size // 2
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_norm(inputs, outputs, 3, stride)
        self.conv2 = conv_norm(outputs, outputs, 3)
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if stride != 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_norm(3, width, 3)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = []
        for stage in range(4):
            blocks.append(ResidualBlock(widths[stage], widths[stage + 1], 1 if stage == 0 else 2))
            blocks.append(ResidualBlock(widths[stage + 1], widths[stage + 1], 1))
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Stubborn(nn.Module):
    """Writes a size into its code, so that it cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(len(x), 8).relu())


class VGG(nn.Module):
    """Convolutions with biases, then linear layers on a flattened map."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(inputs * 16, 48), nn.ReLU(), nn.Dropout(), nn.Linear(48, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expand = nn.Sequential(*conv_norm(inputs, hidden, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6())
        self.project = conv_norm(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, width, 3, 2), nn.ReLU6())
        plan = [(width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)]
        blocks, inputs = [], width
        for outputs, stride in plan:
            blocks.append(Inverted(inputs, outputs, stride, 3))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*conv_norm(inputs, 64, 1), nn.ReLU6())
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean([2, 3]))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(torch.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(torch.relu(self.norm2(x)))


class DenseNet(nn.Module):
    def __init__(self, growth: int = 6, classes: int = 10) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for _ in range(2):
            self.blocks.append(nn.ModuleList(DenseLayer(width + k * growth, growth) for k in range(3)))
            width = width + 3 * growth
            self.transitions.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1)))
            width //= 2
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, transition in zip(self.blocks, self.transitions, strict=True):
            features = [x]
            for layer in block:
                features.append(layer(features))
            x = nn.functional.avg_pool2d(transition(torch.cat(features, 1)), 2)
        return self.classifier(torch.relu(self.norm(x)).mean([2, 3]))


class ShuffleNet(nn.Module):
    """Grouped convolutions with their channels shuffled in between."""

    def __init__(self, width: int = 24, groups: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_norm(3, width, 3, 2)
        self.first = conv_norm(width, 2 * width, 1, groups=groups)
        self.depthwise = conv_norm(2 * width, 2 * width, 3, groups=2 * width)
        self.second = conv_norm(2 * width, width, 1, groups=groups)
        self.groups = groups
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = torch.relu(self.first(x))
        batch, channels, height, width = y.shape
        y = y.view(batch, self.groups, -1, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        x = torch.relu(x + self.second(self.depthwise(y)))
        return self.classifier(x.mean([2, 3]))


class Squeezed(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.slopes = conv_norm(inputs, outputs, 3, 2), nn.PReLU(outputs)
        self.squeeze, self.excite = nn.Conv2d(outputs, outputs // 2, 1), nn.Conv2d(outputs // 2, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slopes(self.conv(x))
        gate = torch.relu(self.squeeze(nn.functional.adaptive_avg_pool2d(x, 1)))
        return nn.functional.hardswish(x * nn.functional.hardsigmoid(self.excite(gate)))


class MobileNetV3(nn.Module):
    """Squeeze and excitation, hard activations, slopes by channel, and an image that is rolled and turned."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Squeezed(3, width), Squeezed(width, 2 * width), Squeezed(2 * width, 2 * width))
        self.classifier = nn.Sequential(nn.Linear(2 * width, 64), nn.Hardswish(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        x = x + torch.roll(x, (1, 1), (2, 3)) * x.flip(3)
        return self.classifier(x.mean([2, 3]))


def convnext() -> nn.Module:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1], num_labels=10, image_size=64)
    return ConvNextForImageClassification(config)


def vit(heads: int = 4) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16 * heads, num_hidden_layers=3, num_attention_heads=heads, intermediate_size=96, image_size=32,
        patch_size=8, num_labels=10,
    )  # fmt: skip
    return ViTForImageClassification(config)


def hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 1, 1], num_labels=10)
    return ResNetForImageClassification(config)


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: ResNet18(16), 32), "vgg": (VGG, 32), "mobilenetv2": (MobileNetV2, 32),
    "densenet": (DenseNet, 16), "shufflenet": (ShuffleNet, 32), "convnext": (convnext, 64), "vit": (vit, 32),
    "hf_resnet": (hf_resnet, 64), "mobilenetv3": (MobileNetV3, 32),
}  # fmt: skip
"""Small networks and the size of the images that they take."""


def net_of(name: str) -> tuple[nn.Module, Tensor]:
    """A random network, its norms' statistics and gains far from their initial ones, and two images for it."""
    torch.manual_seed(7)
    make, size = NETS[name]
    model = make().eval()
    for module in model.modules():
        values: Any = module
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(values.running_mean, std=0.3)
            nn.init.uniform_(values.running_var, 0.5, 2.0)
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(values.weight, 0.5, 1.5)
            nn.init.normal_(values.bias, std=0.3)
    for parameter in model.parameters():
        if parameter.dim() >= 2 and float(parameter.detach().std()) < 0.05:
            nn.init.normal_(parameter, std=0.15)
    return model, torch.randn(2, 3, size, size)
