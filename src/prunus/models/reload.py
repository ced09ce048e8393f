"""Loading a finished checkpoint the way its user will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..core.errors import ProofError
from .skeleton import quiet_transformers


def load_whole(
    folder: Path, dtype: torch.dtype | str = "auto", trust_remote_code: bool = False
) -> tuple[Any, dict[str, Any]]:
    """A model through plain ``from_pretrained``, and what transformers says of the loading."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
        )
    model, info = loaded
    return model.eval(), info


def check_loading(folder: Path, info: dict[str, Any], strangers: list[str]) -> None:
    """Every set of ``output_loading_info`` must be empty, but for tensors that the source had too many.

    Raises:
        ProofError: naming a tensor that is missing, mismatched or unexpected.
    """
    allowed = set(strangers)
    for kind, found in info.items():
        names = [str(item) for item in found if not any(str(item).endswith(name) for name in allowed)]
        if names:
            raise ProofError(f"{folder}: from_pretrained reports {kind.replace('_', ' ')}: {', '.join(sorted(names)[:3])}.")


@torch.no_grad()
def reload_and_compare(folder: Path, streamed: Any, trust_remote_code: bool) -> str:
    """Reload plainly; its logits on a few tokens must be those of the same tensors read one by one.

    Raises:
        ProofError: if anything is missing, or the logits differ by more than 1e-3 of their spread.
    """
    model, info = load_whole(folder, torch.float32, trust_remote_code)
    check_loading(folder, info, streamed.names.strangers)
    ids = torch.arange(1, 17).remainder(model.config.get_text_config().vocab_size).unsqueeze(0)
    logits = model(input_ids=ids, use_cache=False).logits.float()
    state = model.state_dict()
    for name, sources in streamed.names.sources.items():
        if len(sources) == 1 and name not in streamed.names.converted:
            stored = streamed.checkpoint.read(sources[0])
            if not torch.equal(state[name].to(torch.float32), stored.to(torch.float32)):
                raise ProofError(f"{folder}: from_pretrained gives other values for '{name}' than the file holds.")
    if not torch.isfinite(logits).all():
        raise ProofError(f"{folder}: the reloaded model's logits are NaN or Inf.")
    return "from_pretrained: nothing missing, mismatched or unexpected; weights equal the file's; logits finite"
