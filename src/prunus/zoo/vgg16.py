"""VGG-16."""

from __future__ import annotations

from torch import Tensor, nn

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Thirteen 3×3 convolutions in five pooled stages, three linear layers (Simonyan & Zisserman 2014,
    arXiv:1409.1556, configuration D), layers named as Han et al. 2015 name them.

    Inputs ``[n channels size size]``, logits ``[n classes]``; 138,357,544 parameters on 224×224 colour images with 1000
    classes.

    Raises:
        ValueError: if ``size`` is under 32, which five poolings leave nothing of.
    """

    def __init__(self, channels: int = 3, size: int = 224, classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if size < 32:
            raise ValueError(f"vgg16 pools away images of {size}×{size}; it needs at least 32×32")
        self.features = nn.Sequential()
        inputs = channels
        for stage, widths in enumerate(_STAGES, start=1):
            for number, outputs in enumerate(widths, start=1):
                self.features.add_module(f"conv{stage}_{number}", nn.Conv2d(inputs, outputs, 3, padding=1))
                self.features.add_module(f"relu{stage}_{number}", nn.ReLU())
                inputs = outputs
            self.features.add_module(f"pool{stage}", nn.MaxPool2d(2))
        self.fc6 = nn.Linear(inputs * (size // 32) ** 2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.dropout(self.fc6(self.features(images).flatten(1)).relu())
        logits: Tensor = self.fc8(self.dropout(self.fc7(hidden).relu()))
        return logits
