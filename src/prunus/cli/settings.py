"""What settings are called on the command line: flags, the panel of ``--help`` that shows them, and what is told there."""

from __future__ import annotations

HELP: dict[str, tuple[str, str, str]] = {
    "method": (
        "--method,-m",
        "Method",
        "Preset: fast, balanced (default), best, magnitude, wanda or sparsegpt. `prunus methods` lists all.",
    ),
    "sparsity": ("--sparsity,-s", "Method", "Fraction of zeros (0.5, 50%) or N:M (2:4, 4:8). Default 0.5."),
    "criterion": ("--criterion", "Method", "Importance score of a weight, e.g. wanda:statistic=mean_abs."),
    "pattern": ("--pattern", "Method", "Where zeros may lie, e.g. unstructured:scope=row, block:height=16,width=16, row."),
    "allocation": (
        "--allocation",
        "Method",
        "How sparse each layer is: uniform, global, owl, alpha, sensitivity, evolve or manual.",
    ),
    "solver": (
        "--solver",
        "Method",
        "How the remaining weights are updated: keep, lstsq, sparsegpt or admm, e.g. admm:steps=20.",
    ),
    "target": (
        "--target",
        "Method",
        "Output that layers are fitted to: sparse (their own on inputs as pruned) or, in part, dense (the dense model's).",
    ),
    "grid": ("--grid", "Method", "Values that survivors may take, e.g. int:bits=4,group=64 (default: any)."),
    "stage": (
        "--stage",
        "Method",
        "Work on each block as a whole, e.g. permute or match:lr=0.001 (repeatable; none leaves out the preset's).",
    ),
    "true_sequential": (
        "--true-sequential/--no-true-sequential",
        "Method",
        "Solve a block's layers in turn, each on inputs that those before it have changed (default: the preset's).",
    ),
    "temper": (
        "--temper",
        "Method",
        "Exponent of the Gram that solvers get, above 0 to 1; below 1 keeps more on other texts (default: the preset's).",
    ),
    "include": ("--include", "Layers", "Prune only layers whose name matches this glob (repeatable)."),
    "exclude": ("--exclude", "Layers", "Leave layers whose name matches this glob as they are (repeatable)."),
    "set": (
        "--set",
        "Layers",
        "GLOB=VALUE for some layers: 0.3, 2:4, dense or threshold:0.02 (repeatable; the last wins); others get --sparsity.",
    ),
    "skip_unsupported": (
        "--skip-unsupported/--no-skip-unsupported",
        "Layers",
        "Leave what cannot be pruned (state-space parts, say) dense instead of refusing the model.",
    ),
    "starved_experts": (
        "--starved-experts",
        "Layers",
        "What becomes of experts that too few tokens reach: shared (default: all their layer's tokens), magnitude, dense.",
    ),
    "min_expert_tokens": ("--min-expert-tokens", "Layers", "Fewer tokens than this are too few. Default 64."),
    "calibration": (
        "--calibration,-c",
        "Text",
        "Text file, folder, JSONL, Parquet or dataset id (default: factbook, built in); or token windows as .npy.",
    ),
    "samples": ("--samples", "Text", "Calibration windows. Default 128."),
    "seqlen": ("--seqlen", "Text", "Tokens of a window, of the calibration and the evaluation. Default 512."),
    "own_text": (
        "--own-text",
        "Text",
        "Share of the windows that the dense model writes itself, in short passages (default: the preset's).",
    ),
    "seed": ("--seed", "Text", "Seed of the windows' offsets and of what the model writes. Default 0."),
    "eval_text": ("--eval-text", "Text", "Text that dense and pruned are judged on (default: factbook-heldout, built in)."),
    "eval_windows": ("--eval-windows", "Text", "Windows of the evaluation text; 0 skips the evaluation. Default 16."),
    "device": ("--device", "Machine", "auto, cpu, cuda, cuda:1 … Default auto."),
    "dtype": (
        "--dtype",
        "Machine",
        "Compute dtype: auto, float32, or the one that weights are stored in. The output keeps the source's dtype.",
    ),
    "batch_tokens": ("--batch-tokens", "Machine", "Tokens in one forward pass. Default 4096, with match at most 1024."),
    "memory_budget": (
        "--memory-budget",
        "Machine",
        "GiB for each of: Gram matrices held at once, hidden states, the model as it writes or is reloaded. Default 4.",
    ),
    "trust_remote_code": (
        "--trust-remote-code/--no-trust-remote-code",
        "Machine",
        "Allow the checkpoint's own Python code to run.",
    ),
}


SHRINK: dict[str, tuple[str, str, str]] = {
    "heads": (
        "--heads",
        "What stays",
        "Query heads: a share (0.75), a number (6), or how many go (-3); as many in every group.",
    ),
    "kv_groups": ("--kv-groups", "What stays", "Key/value heads, each with all of its query heads."),
    "neurons": ("--neurons", "What stays", "Feed-forward neurons of each block."),
    "width": ("--width", "What stays", "Hidden width: channels of the residual stream."),
    "experts": ("--experts", "What stays", "Experts of each block."),
    "layers": ("--layers", "What stays", "Blocks."),
    "cut": (
        "--cut",
        "What stays",
        "NAME=WHAT for numbers that only some configs have (repeatable): --cut q_lora_rank=0.5.",
    ),
    "params": (
        "--params",
        "Target",
        "Parameters: a share (0.8x) or a number (100M); sizes are searched. Several targets (repeatable) give a family.",
    ),
    "params_nonembedding": ("--params-nonembedding", "Target", "Parameters without embeddings and head (repeatable)."),
    "flops": ("--flops", "Target", "Operations a token in windows of --seqlen: 0.7x, 200M (repeatable)."),
    "memory": ("--memory", "Target", "Bytes of the weights as they are stored: 0.5x, 1.5GB (repeatable)."),
    "latency": (
        "--latency",
        "Target",
        "Time of a forward pass over --seqlen tokens, measured on this device: 0.6x, 40ms (repeatable).",
    ),
    "along": (
        "--along",
        "Target",
        "What is searched: neurons, heads, kv_groups, width, experts, layers (repeatable; default: all there are).",
    ),
    "importance": (
        "--importance",
        "Method",
        "Which heads and neurons stay: obs (default), fluctuation, activation, taylor, weight or random.",
    ),
    "width_importance": ("--width-importance", "Method", "The same for channels of the hidden width. Default activation."),
    "expert_importance": (
        "--expert-importance",
        "Method",
        "Which experts stay: reap (default: what they add where they are used), frequency or norm.",
    ),
    "depth": ("--depth", "Method", "Which blocks go: loss (default: those it rises least without), influence or angular."),
}


HEAL: dict[str, tuple[str, str, str]] = {
    "teacher": ("--teacher", "Learning", "The model to learn from: checkpoint folder, .gguf file, pkg:PACKAGE or hub id."),
    "loss": (
        "--loss",
        "Learning",
        "What is learnt: kl (default with a teacher), ce (else), hidden or relations, e.g. kl:temperature=2 (repeatable).",
    ),
    "text": ("--text,-t", "Learning", "Text to train on: file, folder, JSONL, Parquet or dataset id (default: factbook)."),
    "tokens": ("--tokens", "Learning", "Tokens of one pass over the text. Default 300,000."),
    "epochs": ("--epochs", "Learning", "Passes. Default 1."),
    "seqlen": ("--seqlen", "Learning", "Tokens of a window. Default 512."),
    "masks": (
        "--masks",
        "Learning",
        "held (default): zeros of pruned matrices stay zeros; free: they are trained too.",
    ),
    "batch": ("--batch", "Training", "Windows of one step, on all devices together. Default 8."),
    "lr": (
        "--lr",
        "Training",
        "Learning rate after --warmup, from where a cosine goes to 0. Default 1e-4, LoRA 1e-3.",
    ),
    "warmup": ("--warmup", "Training", "Share of the steps in which the learning rate rises. Default 0.05."),
    "weight_decay": ("--weight-decay", "Training", "AdamW's. Default 0."),
    "lora": ("--lora", "Training", "Train low-rank updates of this rank in place of all weights; merged at the end."),
    "lora_alpha": ("--lora-alpha", "Training", "Their scale is alpha / rank. Default twice the rank."),
    "shared": (
        "--shared",
        "Training",
        "Train codebooks of this many bits in place of weights: pruned matrices share their values, as pack keeps them.",
    ),
    "held_out": ("--held-out", "Training", "Windows of the text that are not trained on, but watched. Default 16."),
    "evaluations": ("--evaluations", "Training", "How often they are looked at, and a checkpoint is saved. Default 10."),
    "patience": (
        "--patience",
        "Training",
        "Looks without a lower held-out loss until training ends; 0: never. Default 3.",
    ),
    "seed": ("--seed", "Training", "Seed of the order of windows and of low-rank updates. Default 0."),
    "dtype": ("--dtype", "Machine", "float32 (auto), or bfloat16 for the products; weights are trained in float32."),
}


THRESHOLD: dict[str, tuple[str, str, str]] = {
    "sparsity": (
        "--sparsity,-s",
        "Levels",
        "Share of the blocks' weight bytes that is not to be read for a token (0.5, 50%). Default 0.5.",
    ),
    "allocation": (
        "--allocation",
        "Levels",
        "uniform (default: the same share of every input) or greedy (within each block, by what it does to the output).",
    ),
    "step": ("--step", "Levels", "Share of a block's bytes that one raise of greedy saves. Default 0.02."),
    "dense_tokens": (
        "--dense-tokens",
        "Levels",
        "First tokens of every window that are left as they are, as prompts are when text is continued. Default 1.",
    ),
}

COMPARE: dict[str, tuple[str, str, str]] = {
    "quality_only": ("--quality-only/--no-quality-only", "Quality", "Time and continue nothing."),
    "text": (
        "--text,-t",
        "Quality",
        "Text file, folder, JSONL, Parquet or dataset id (default: factbook-heldout).",
    ),
    "windows": ("--windows", "Quality", "Read at most this many windows. Default 32."),
    "tasks": ("--task", "Quality", "Task of lm-eval, or a group of them, e.g. arc_easy (repeatable)."),
    "include_path": ("--include-path", "Quality", "Folder with tasks of your own in lm-eval's YAML."),
    "num_fewshot": ("--num-fewshot", "Quality", "Examples shown before a question (default: the task's)."),
    "limit": ("--limit", "Quality", "Ask at most this many questions of a task."),
    "prompts": ("--prompt,-p", "Continuations", "Prompt to continue (repeatable)."),
    "new_tokens": ("--new-tokens", "Continuations", "Tokens of a continuation, and of a timed run. Default 32."),
    "continuation_tokens": ("--continuation-tokens", "Continuations", "Tokens of a continuation alone."),
    "temperature": ("--temperature", "Continuations", "Draw tokens at this temperature; 0 (default): the likeliest."),
    "top_p": ("--top-p", "Continuations", "Draw from the likeliest tokens of this share. Default 1."),
    "seed": ("--seed", "Continuations", "Seed of the draws, the same for every model. Default 0."),
    "prompt_tokens": ("--prompt-tokens", "Cost", "Tokens of the text that a timed run begins with. Default 128."),
    "warmups": ("--warmups", "Cost", "Rounds before any is timed. Default 1."),
    "repeats": ("--repeats", "Cost", "Timed rounds, in which all models take turns. Default 10."),
    "memory_limit": ("--memory-limit", "Cost", "GiB: tells the largest batch that fits in them."),
    "watts": ("--watts", "Cost", "The machine's power, for an estimate where no meter can be read; else 3.5 a thread."),
    "grid_intensity": ("--grid-intensity", "Cost", "Grams of CO2e a kilowatt-hour: tells emissions."),
    "price": ("--price", "Cost", "Price of an hour of the machine: tells that of a million new tokens."),
    "activations": (
        "--activations",
        "Cost",
        "File of `prunus threshold` for the last model: small activations count as zero.",
    ),
}
COMPARE_SHARED = ("seqlen", "device", "dtype", "batch_tokens", "trust_remote_code")
"""Settings of a pruning run that a comparison has too."""
THRESHOLD_SHARED = (
    "calibration", "samples", "seqlen", "seed", "eval_text", "eval_windows", "device", "dtype", "batch_tokens",
    "memory_budget", "trust_remote_code",
)  # fmt: skip
"""Settings of a pruning run that finding thresholds has too."""
HEAL_SHARED = ("eval_text", "eval_windows", "device", "batch_tokens", "memory_budget", "trust_remote_code")
"""Settings of a pruning run that a healing one has too."""
SHARED = (
    "solver", "target", "temper", "starved_experts", "min_expert_tokens", "calibration", "samples", "seqlen", "own_text",
    "seed", "eval_text", "eval_windows", "device", "dtype", "batch_tokens", "memory_budget", "trust_remote_code",
)  # fmt: skip
"""Settings of a pruning run that a structured one has too."""
