"""A small network trained sparse by every schedule, alone or by several processes on parts of the same batches."""

from __future__ import annotations

import os
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import prunus

SCHEDULES = {
    "fixed": {"sparsity": 0.5}, "gradual:every=3": {"sparsity": 0.75}, "set:every=3": {"sparsity": 0.5},
    "rigl:every=3": {"sparsity": 0.5}, "movement:every=3": {"sparsity": 0.5}, "srste": {"sparsity": "2:4"},
}  # fmt: skip
STEPS, BATCH = 12, 16


def main(out: str) -> None:
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        distributed.init_process_group("gloo")
    for schedule, settings in SCHEDULES.items():
        torch.manual_seed(rank)  # other weights in each process, until they are told those of the first
        inner = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
        model = DistributedDataParallel(inner) if world > 1 else inner
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sparsity = prunus.Sparsifier(model, optimizer, schedule, steps=STEPS, **settings)
        for step in range(STEPS):
            batch = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(step))
            mine = batch.chunk(world)[rank]
            optimizer.zero_grad()
            (model(mine) - mine[:, :8]).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            sparsity.step()
        sparsity.finish()
        torch.save(inner.state_dict(), f"{out}-{schedule.partition(':')[0]}-{rank}.pt")
    if world > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
