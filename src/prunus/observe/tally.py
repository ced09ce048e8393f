"""Running sums over what one input was handed, and a sample of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import NumericalError
from ..core.finite import all_finite
from ..core.site import Site
from ..core.stats import Needs, Stats
from .beside import Above
from .moments import MOMENTS, SAMPLE_ROWS, Batch, moment_of

_GOLDEN = (5**0.5 - 1) / 2


class Sample:
    """Rows spread evenly over all that is added, whatever its period: row ``i`` is kept while the fraction of ``i`` times
    the golden ratio is below a share, and the share is halved whenever too many are kept.
    """

    def __init__(self, cols: int, device: torch.device) -> None:
        self.rows = torch.zeros(0, cols, device=device)
        self._places = torch.zeros(0, dtype=torch.float64)
        self._share = 1.0
        self._seen = 0

    def add(self, flat: Tensor) -> None:
        """Add rows ``[tokens cols]``."""
        places = (torch.arange(self._seen, self._seen + len(flat), dtype=torch.float64) * _GOLDEN).frac()
        chosen = places < self._share
        self.rows = torch.cat([self.rows, flat[chosen.to(flat.device)]])
        self._places = torch.cat([self._places, places[chosen]])
        self._seen += len(flat)
        while len(self.rows) > 2 * SAMPLE_ROWS:
            self._share /= 2
            kept = self._places < self._share
            self.rows, self._places = self.rows[kept.to(self.rows.device)], self._places[kept]


@dataclass
class Tally:
    """Running sums over one input: ``batch`` entries of ``cols`` inputs each, for all Sites in ``sites``."""

    batch: int
    cols: int
    needs: Needs
    device: torch.device
    sites: list[Site]

    def __post_init__(self) -> None:
        self.tokens = torch.zeros(self.batch, dtype=torch.int64)
        self.totals = {
            name: torch.zeros(self.batch, *moment.shape(self.cols), device=self.device)
            for name, moment in MOMENTS.items()
            if moment.need in self.needs
        }
        self.above: dict[str, Tensor] = {}
        self.samples = [Sample(self.cols, self.device) for _ in range(self.batch)]

    def add(self, entry: int, inputs: Tensor, above: Above | None = None) -> None:
        """Add ``inputs [.. cols]`` to one batch entry, and what the dense model has ``above`` them or behind the layer."""
        flat = inputs.detach().reshape(-1, self.cols).float()
        batch = Batch(flat, inputs.detach())
        self.tokens[entry] += len(flat)
        for name, total in self.totals.items():
            MOMENTS[name].update(total[entry], batch)
        if Needs.SAMPLE in self.needs:
            self.samples[entry].add(flat)
        if above is not None:
            rows = above.value.shape[-1]
            if above.moment not in self.above:
                self.above[above.moment] = torch.zeros(self.batch, rows, self.cols, device=self.device)
            self.above[above.moment][entry] += moment_of(above.value.reshape(-1, rows).float(), batch)

    def stats(self) -> Stats:
        """The sums as Stats.

        Raises:
            NumericalError: if an input held NaN or Inf.
        """
        for name, total in self.totals.items():
            MOMENTS[name].finish(total)
            if not all_finite(total.diagonal(dim1=-2, dim2=-1) if total.dim() == 3 else total):
                raise NumericalError(
                    f"{self.sites[0].name}: its inputs hold NaN or Inf. Check the model and the text; with float16 try "
                    "--dtype float32 or bfloat16."
                )
        moments = dict(self.totals)
        if "behind" not in self.above or len(self.sites) == 1:  # what stands behind a layer is its own
            moments |= self.above
        if Needs.SAMPLE in self.needs:
            moments["sample"] = nn.utils.rnn.pad_sequence([sample.rows for sample in self.samples], batch_first=True)
        return Stats(self.tokens, moments)
