"""In which order training sees its windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from prunus.train.trainer import _Order


@pytest.mark.parametrize("process", [0, 1])
def test_a_pass_is_gone_on_with_by_several_processes(process) -> None:
    """As the Trainer skips what was trained before: in the second pass its order is the second pass's."""
    trainer = SimpleNamespace(state=SimpleNamespace(epoch=0), args=SimpleNamespace(seed=5))

    def batches(skipped: int = 0) -> list[list[int]]:
        numbers = torch.arange(24)
        loader = DataLoader(numbers, batch_size=2, sampler=_Order(trainer, len(numbers)))
        mine = prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
        mine = skip_first_batches(mine, skipped)
        mine.set_epoch(int(trainer.state.epoch))
        return [batch.tolist() for batch in mine]

    first = batches()
    trainer.state.epoch = 1.0
    second = batches()
    trainer.state.epoch = 1 + 4 / 6
    assert batches(4) == second[4:]
    assert first != second
    assert len(first) == 6
