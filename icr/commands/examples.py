"""Examples under the help of each command. tests/commands/test_help.py parses every one of them."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": ("icr iterate", "icr init -o my.yaml", "icr iterate --config llama3-8b --run runs/a"),
    "init": ("icr init", "icr init llama3-8b -o my.yaml"),
    "recipes": ("icr recipes",),
    "validate": ("icr validate my.yaml", "icr validate llama3-8b --set prompts.limit=100 --show-prompts"),
    "plan": ("icr plan my.yaml", "icr plan llama3-8b --gpu h100 --gpus 1,8,64"),
    "iterate": (
        "icr iterate --config my.yaml --run runs/a",
        "icr iterate --run runs/a --rounds 3",
        "icr iterate --run runs/b --from runs/a/round-1 --set train.beta=0.2",
    ),
    "compare": ("icr compare quickstart --vary reward.kind=cross-lingual,random \\\n    --out compare/kinds",),
    "status": ("icr status runs/a", "icr status runs/a --json"),
    "report": ("icr report runs/a",),
    "best": ("icr best runs/a",),
    "chat": ("icr chat runs/a", 'echo "¿Qué es un eclipse?" | icr chat runs/a --round 1'),
    "export": (
        "icr export runs/a/round-2 --to hub --out my-model --license apache-2.0",
        "icr export runs/a/round-2 --to trl --out pairs.trl",
        "icr export runs/a/round-2 --to gguf --converter llama.cpp --out my.gguf",
    ),
    "lc": ("icr lc judged.csv", "icr lc judged.csv --difficulty difficulty.csv --gamed gamed.csv"),
    "env": ("icr env --json",),
    "sample": ("icr sample --run runs/a --round 1",),
    "score": ("icr score --run runs/a --round 1",),
    "pair": ("icr pair --run runs/a --round 1",),
    "train": ("icr train --run runs/a --round 1",),
    "judge": (
        "icr judge --run runs/a --round 2",
        "icr judge xalpaca MODEL --judge openai:JUDGE --baseline answers \\\n    --languages es,sw --out eval/a",
    ),
    "judge xalpaca": (
        "icr judge xalpaca runs/a/round-2/model --judge openai:JUDGE \\\n"
        "    --baseline answers/gpt-4-turbo --languages es,sw --out eval/a --dry-run",
    ),
    "judge mtbench": (
        "icr judge mtbench runs/a/round-2/model --judge openai:JUDGE \\\n"
        "    --questions data/mt_bench --languages en,es --out eval/mtbench",
    ),
    "judge accuracy": ("icr judge accuracy --run runs/a --round 1 --pairs 100",),
    "judge nlp": (
        "icr judge nlp MODEL --languages es,ru --out eval/nlp",
        "icr judge nlp MODEL --languages sw,th --tasks belebele --out eval/belebele",
    ),
    "judge diff": ("icr judge diff runs/a/round-1/judge runs/a/round-2/judge",),
    "judge audit": (
        "icr judge audit eval/a --human labels.csv --page audit.html",
        "icr judge audit runs/a/round-2/judge --repeats 2 --sample 50",
    ),
    "human": ("icr human export ANSWERS --baseline OTHERS --languages es \\\n    --out people",),
    "human export": ("icr human export ANSWERS --baseline OTHERS --languages es,ru \\\n    --limit 50 --out people",),
    "human import": ("icr human import people votes-ann.csv votes-bob.csv --judge eval/a",),
    "data": ("icr data get ultrafeedback x_alpacaeval",),
    "data get": ("icr data get ultrafeedback x_alpacaeval", "icr data get mt_bench --out my/data"),
    "prompts": ("icr prompts check my/prompts",),
    "prompts translate": (
        "icr prompts translate --source english.jsonl --to es,sw,th \\\n"
        "    --translator openai:MODEL --budget 20 --out my/prompts --dry-run",
    ),
    "prompts check": ("icr prompts check my/prompts",),
    "prompts split": ("icr prompts split my/prompts --held-out 200 --out my/split",),
    "sft": ("icr sft sft.yaml --run runs/sft", "icr sft rmt-oasst1-sft --set data.languages=[es] --run runs/sft-es"),
    "rl": ("icr rl rl.yaml --run runs/rl", "icr rl rl.yaml --set max_kl=20"),
    "best-of-n": (
        "icr best-of-n MODEL --reward runs/rm/model --prompts my/prompts \\\n"
        "    --languages es,ru --n 64 --k 16 --out eval/best",
        "icr best-of-n MODEL --reward cross-lingual:POLICY,REFERENCE \\\n"
        "    --prompts my/prompts --languages es --out eval/best",
    ),
    "transfer": ("icr transfer transfer.yaml --dry-run", "icr transfer transfer.yaml --only 'rm-e*'"),
    "rm": ("icr rm train rmt-seahorse --run runs/rm", "icr rm eval runs/rm/model --data data/rm --out eval/rm"),
    "rm data": (
        "icr rm data seahorse/*.tsv --out data/seahorse",
        "icr rm data hf:org/pairs --lang en --validation 500 --out data/pairs",
    ),
    "rm translate": (
        "icr rm translate data/oasst1 --to es,th --translator openai:MODEL \\\n"
        "    --budget 20 --out data/silver --dry-run",
    ),
    "rm train": (
        "icr rm train rmt-seahorse --run runs/rm",
        "icr rm train my-rm.yaml --set train.learning_rate=1e-5",
    ),
    "rm eval": (
        "icr rm eval runs/rm/model org/another --data data/oasst1 --out eval/rm",
        "icr rm eval --implicit POLICY,REFERENCE --judge local:MODEL \\\n    --data data/oasst1 --out eval/rows",
    ),
    "rm bench": ("icr rm bench runs/rm/model --on hf:allenai/reward-bench::filtered \\\n    --out eval/rewardbench",),
    "rm look": (
        "icr rm look runs/rm/model --data data/oasst1 --out eval/look",
        "icr rm look runs/rm/model --parallel my/prompts --languages en,es \\\n    --base org/model --out eval/look",
    ),
}
"""Command without the program → what one types. A command that takes a second line is broken as a shell takes it."""
