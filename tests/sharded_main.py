"""prunus with models sharded over processes on CPUs, which accelerate does on GPUs alone: it takes these for some."""

from __future__ import annotations

import accelerate.state
from accelerate.utils import DistributedType

from prunus.cli.app import main

_begin = accelerate.state.PartialState.__init__


def _as_gpus(self: accelerate.state.PartialState, *args: object, **kwargs: object) -> None:
    _begin(self, *args, **kwargs)  # type: ignore[arg-type]
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    accelerate.state.PartialState.__init__ = _as_gpus
    main()
