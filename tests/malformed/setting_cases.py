"""Values that a key does not take, and settings that do not go together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tests.malformed.bench import Bench, Case, setting

LOCAL = {"judge__kind": "local"}
ENDPOINT = {"judge__kind": "openai", "judge__model": "m", "judge__benchmarks": "[accuracy]"}
HALF_A_TEMPLATE = "xalpaca:\n  labels: [A, B]\n  prompt: '{instruction} {first}'\n"
HERE = "http://127.0.0.1:9/v1"


def deepspeed(name: str, content: str, *says: str) -> Case:
    return Case(
        f"DeepSpeed config: {name}",
        lambda bench: ["validate", bench.config({"train.deepspeed": str(bench.write("ds.json", content))})],
        ("ds.json", *says),
    )


def judged(name: str, changes: Callable[[Bench], dict[str, str]], *says: str) -> Case:
    def make(bench: Bench) -> list[object]:
        usual = {"judge.kind": "local", "judge.model": str(bench.reference), "judge.prompts": str(bench.heldout)}
        return ["validate", bench.config({**usual, **changes(bench)})]

    return Case(f"judge: {name}", make, says)


def prices(name: str, content: str, *says: str) -> Case:
    changes = {"judge.kind": "openai", "judge.model": "m", "judge.benchmarks": "[accuracy]", "judge.base_url": HERE}
    return Case(
        f"prices: {name}",
        lambda bench: ["validate", bench.config({**changes, "judge.prices": str(bench.write("prices.yaml", content))})],
        ("prices.yaml", *says),
    )


def zero(**changes: object) -> str:
    return json.dumps({"zero_optimization": {"stage": 2}, **changes})


def cases() -> Iterator[Case]:
    yield from numbers()
    yield from texts()
    yield from trainings()
    yield from judges()
    yield from together()


def numbers() -> Iterator[Case]:
    for raw in ("true", "yes", "on", "null", "4.5", "'4'", ".nan", ".inf", "1_000", "010", "0x", "-1", "0", "1", "[4]"):
        yield setting("sampling.n", raw)
    yield setting("sampling.n", "8.0", code=0)
    yield setting("sampling.seed", "1_000_000", "`sampling.seed`", "write 1000000")
    yield setting("sampling.n", "1000000000", "`sampling.n`", "10,000")
    yield setting("sampling.max_tokens", "0")
    yield setting("sampling.max_tokens", "1e9")
    yield setting("sampling.max_tokens", "100000000000", "`sampling.max_tokens`", "10,000,000")
    yield setting("prompts.limit", "0")
    yield setting("prompts.limit", "-5")
    yield setting("prompts.limit", "100000000000", "`prompts.limit`", "10,000,000")
    yield setting("rounds", "0")
    yield setting("rounds", "1000000", "`rounds`", "1,000")
    yield setting("rounds", "two", "`rounds`", "'two'")
    yield setting("sampling.seed", "-1")
    yield setting("sampling.seed", "10000000000")
    yield setting("sampling.seed", "0o17", code=0)
    for raw in ("0", "-1", ".nan", ".inf", "1e400", "hot", "1000"):
        yield setting("sampling.temperature", raw)
    yield setting("sampling.top_p", "0")
    yield setting("sampling.top_p", "1.5")
    yield setting("sampling.gpu_memory", "2")
    yield setting("sampling.tensor_parallel", "100000")
    for raw in ("0", "-1e-6", ".inf", "'1e-6'", "1e6", "1-6", "1e"):
        yield setting("train.learning_rate", raw)
    yield setting("train.learning_rate", "1e-6", code=0)
    yield setting("train.learning_rate", "5E-7", code=0)
    yield setting("train.epochs", ".inf")
    yield setting("train.batch_size", "0")
    yield setting("train.micro_batch_size", "none", "`train.micro_batch_size`", "auto or a whole number")
    yield setting("train.micro_batch_size", "0")
    yield setting("train.processes", "all", "`train.processes`", "auto or a whole number")
    yield setting("train.warmup_ratio", "2")
    yield setting("train.dropout", "1")
    yield setting("train.lora", "{rank: 0}", "`train.lora.rank`")
    yield setting("train.lora", "{dropout: 1.5}", "`train.lora.dropout`")
    yield setting("train.lora", "{target_modules: []}", "`train.lora.target_modules`")
    yield setting("train.validation", "1.5", "a whole number of pairs")
    for raw in ("on", "yes", "true", "no", ".nan", ".inf", "'fit '", "full"):
        yield setting("reward.length_penalty", raw, "`reward.length_penalty`", "fit or none or a number")
    yield setting("reward.drop_truncated", "maybe", "`reward.drop_truncated`", "true or false")
    yield setting("reward.drop_truncated", "yes", code=0)


def texts() -> Iterator[Case]:
    yield setting("judge", "", code=0)
    yield setting("sampling", "null", "`sampling` is a section")
    yield setting("sampling", "5", "`sampling` is a section")
    yield setting("sampling", "[n, 4]", "`sampling` is a section")
    yield setting("sampling.backend", "magic", "`sampling.backend`", "vllm")
    yield setting("sampling.m", "4", "unknown key `sampling.m`")
    yield setting("sampling.temprature", "1", "unknown key `sampling.temprature`", "sampling.temperature")
    yield setting("smapling", "{n: 4}", "unknown key `smapling`", "sampling")
    yield setting("models.reference", "", "`models.reference` is missing")
    yield setting("models.reference", "'  '", "`models.reference`")
    yield setting("models.policy", "7", "`models.policy`", "quotes")
    yield setting("models.policy", "[a, b]", "`models.policy`")
    yield setting("prompts", "", "`prompts` is missing")
    yield setting("prompts.languages", "", "`prompts.languages` is missing")
    yield setting("prompts.languages", "[]", "`prompts.languages`")
    yield setting("prompts.languages", "en", "`prompts.languages`", "a list")
    yield setting("prompts.languages", "[en, 5]", "`prompts.languages.1`", "quotes")
    yield setting("prompts.languages", "[en, null]", "`prompts.languages.1`")
    yield setting("prompts.languages", "[en, '']", "`prompts.languages.1`")
    yield setting("prompts.languages", "[en, es, en]", "prompts.languages", "listed twice: en")
    yield setting("prompts.languages", "[es]", "prompts.languages", "`en` is not among")
    yield setting("prompts.languages", "[en, xx]", "'xx'", "prompts.languages")
    yield setting("prompts.languages", "[en, EN]", "'EN'")
    yield setting("prompts.languages", "[en, spanish]", "'spanish'", "did you mean es")
    yield setting("prompts.languages", "[en, zh-Hans]", "'zh-Hans'", "did you mean zh")
    yield setting("prompts.languages", "[en, ../es]", "'../es'")
    yield setting("prompts.languages", "[en, de]", "de.jsonl not found")
    yield setting("run", "12", "`run`", "quotes")
    yield setting("run", "''", "`run`")
    yield setting("run", '"a\\0b"', "`run`")
    yield setting("run", "2026-11-25", code=0)
    yield setting("run", "x" * 300, "run: xxx", "too long")
    yield setting("run", "~nobody-of-this-name/x", "user not found: ~nobody-of-this-name", "run")
    yield Case("run: a file", lambda b: ["validate", b.config({"run": str(b.write("f", ""))})], ("is a file", "run"))
    yield Case(
        "run: below a file",
        lambda bench: ["validate", bench.config({"run": f"{bench.write('f', '')}/x"})],
        ("f is a file", "run"),
    )
    yield setting("models.chat_template", "none.jinja", "none.jinja not found", "models.chat_template")
    yield setting("models.reference", "./none", "none not found", "models.reference")
    yield setting("models.reference", "package:no_such_package/x.gguf", "no_such_package", "models.reference")
    yield setting("models.reference", "none.gguf", "none.gguf not found", "models.reference")


def trainings() -> Iterator[Case]:
    yield setting("objective", "kto", code=0)
    yield setting("objective", "dop", "unknown objective dop", "did you mean dpo")
    yield setting("objective", "''", "`objective`")
    yield setting("train.deepspeed", "no", "DeepSpeed config", "no not found", "train.deepspeed")
    yield setting("train.deepspeed", "zero9", "zero9 not found", "train.deepspeed")
    yield setting("train.deepspeed", "false", "`train.deepspeed`")
    yield deepspeed("not JSON", "{\n'a': 1}", "ds.json:2")
    yield deepspeed("a list", "[]", "not a JSON object")
    yield deepspeed("Latin-1", "[" * 100_000, "cannot be read")
    yield deepspeed("a typing error", zero(zero_optimisation={}), "zero_optimisation", "did you mean zero_optimization")
    yield deepspeed("a batch", zero(train_batch_size=16), "train_batch_size is 16", "train.batch_size")
    yield deepspeed("an optimiser", zero(optimizer={"type": "Adam"}), "optimizer", "train.optimizer")
    yield deepspeed("stage 7", '{"zero_optimization": {"stage": 7}}', "no stage from 0 to 3")
    yield deepspeed("zero as a text", '{"zero_optimization": "2"}', "no stage from 0 to 3")
    yield deepspeed("fp16", zero(fp16={"enabled": True}), "fp16", "train.precision")
    yield deepspeed("bf16 for fp32", zero(bf16={"enabled": True}), "bf16", "train.precision: fp32")
    yield setting("train.scheduler", "cosin", "unknown scheduler cosin", "cosine")
    yield setting("train.scheduler", "greedy", "greedy", "validation")
    yield setting("train.scheduler_arguments", "{x: 1}", "train.scheduler_arguments", "x")
    yield setting("train.scheduler_arguments", "{num_cycles: a}", "train.scheduler_arguments", "num_cycles")
    yield setting("train.scheduler_arguments", "{num_cycles: .nan}", "`train.scheduler_arguments.num_cycles`")
    yield setting("train.scheduler", "constant", "takes no arguments", train__scheduler_arguments="{x: 1}")
    yield setting("train.scheduler", "cosine_with_min_lr", "cosine_with_min_lr", "train.scheduler_arguments")
    yield setting("train.report_to", "no", "tracker no", "train.report_to")
    yield setting("train.report_to", "'wandbb,nobody'", "wandbb, nobody", "train.report_to")
    yield setting("train.optimizer", "sgd", "`train.optimizer`", "adafactor")
    yield setting("train.optimizer", "adafactor", "Adafactor", "train.deepspeed: zero2", train__deepspeed="zero2")
    yield setting("train.warmup_steps", "3", "warmup_ratio", "warmup_steps", train__warmup_ratio="0.1")
    yield setting("train.batch_size", "5", "a batch of 5", "train.batch_size", train__processes="2")
    yield setting("train.nodes", "2", "train.launcher")


def judges() -> Iterator[Case]:
    yield setting("judge.kind", "no", "`judge.kind`", "openai", "module:Class")
    yield setting("judge.benchmarks", "[]", "`judge.benchmarks`")
    yield setting("judge.benchmarks", "xalpaca", "`judge.benchmarks`", "a list")
    yield setting("judge.benchmarks", "[xalpaca, alpaca]", "`judge.benchmarks.1`", "'alpaca'")
    yield setting("judge.benchmarks", "[nlp, accuracy]", "accuracy need a judge", "judge.kind")
    yield judged("a benchmark twice", lambda b: {"judge.benchmarks": "[xalpaca, xalpaca]"}, "judge.benchmarks", "twice")
    yield judged("no prompts", lambda b: {"judge.prompts": ""}, "judge.prompts", "no prompts")
    yield judged("no model", lambda b: {"judge.model": ""}, "judge.model", "no model")
    yield judged("prompts of training", lambda b: {"judge.prompts": str(b.prompts)}, "also training", "judge.prompts")
    yield judged("no MT-Bench questions", lambda b: {"judge.benchmarks": "[mtbench]"}, "judge.mtbench")
    yield judged("no baseline", lambda b: {"judge.baseline": "nowhere"}, "nowhere", "judge.baseline")
    yield judged("no difficulties", lambda b: {"judge.difficulty": "d.csv"}, "d.csv not found", "judge.difficulty")
    yield judged("no gamed pairs", lambda b: {"judge.gamed": "g.csv"}, "g.csv not found", "judge.gamed")
    yield judged("no template", lambda b: {"judge.template": "t.yaml"}, "t.yaml", "no such file")
    yield judged(
        "a template without an answer",
        lambda b: {
            "judge.template": str(b.write("t.yaml", "xalpaca:\n  labels: [A, B]\n  prompt: '{instruction} {first}'\n"))
        },
        "`xalpaca.prompt` has no {second}",
        "t.yaml:3",
    )
    yield setting("judge.judges", "[{model: a}, {model: a}]", "two judges are called a", judge__kind="openai")
    yield judged("no such model", lambda b: {"judge.model": "./m"}, "m not found", "judge.model")
    yield judged("a limit of a text", lambda b: {"judge.limit": "all"}, "`judge.limit`", "'all'")
    yield judged("few-shot of a text", lambda b: {"judge.nlp": "{few_shot: {arc: many}}"}, "`judge.nlp.few_shot.arc`")
    yield judged(
        "tasks that are not there",
        lambda b: {"judge.benchmarks": "[nlp]", "judge.nlp": "{include_path: none}"},
        "judge.nlp.include_path",
        "not found",
    )
    yield judged(
        "a folder without tasks",
        lambda b: {"judge.benchmarks": "[nlp]", "judge.nlp": f"{{include_path: {b.write('t/a.txt', '').parent}}}"},
        "no .yaml file",
    )
    yield judged(
        "a task that is not YAML",
        lambda b: {"judge.benchmarks": "[nlp]", "judge.nlp": f"{{include_path: {b.write('t/a.yaml', '[').parent}}}"},
        "a.yaml:1",
    )
    for url in ("ftp://host/v1", "host:8000", "http://", "http://host:port/v1", "'http://a b/v1'", "'http://[::1/v1'"):
        yield setting("judge.base_url", url, "not a web address", "judge.base_url", **ENDPOINT)
    yield setting("judge.base_url", f"{HERE}/chat/completions", "remove /chat/completions", **ENDPOINT)
    yield setting("judge.base_url", "https://host/v1", "the key", "OPENAI_API_KEY", **ENDPOINT)
    yield setting("judge.budget", "5", "judge.budget", "judge.prices", judge__base_url=HERE, **ENDPOINT)
    yield setting("judge.budget", "0", "`judge.budget`", judge__base_url=HERE, **ENDPOINT)
    yield setting("judge.prices", "p.yaml", "p.yaml", "prices cannot be read", judge__base_url=HERE, **ENDPOINT)
    yield setting("judge.timeout", "soon", "`judge.timeout`", "'soon'")
    yield prices("not YAML", "m: {input: 1", "not valid YAML")
    yield prices("a list", "- m\n", "prices.yaml")
    yield prices("one price", "\nm: {input: 1}\n", "prices.yaml:2", "output")
    yield prices("negative", "m: {input: -1, output: 1}\n", "m.input")
    yield prices("not a number", "m: {input: .nan, output: 1}\n", "m.input")
    yield prices("a truth value", "m: {input: yes, output: 1}\n", "m.input")
    yield prices("twice", "m: {input: 1, output: 1}\nm: {input: 2, output: 1}\n", "`m` is given twice")


def together() -> Iterator[Case]:
    yield setting("reward.kind", "model", "reward.model")
    yield setting("reward.kind", "best", "`reward.kind`", "cross-lingual")
    yield setting("reward.kind", "cross-lingul", "`reward.kind`", "did you mean cross-lingual?")
    yield setting("prompts.languages", "'en,es'", "`prompts.languages` takes a list", "write [en, es]")
    yield setting("reward.kind", "lidr", "lidr needs", prompts__languages="[en]")
    yield setting("models.policy", "", "models.policy", "alignment.pairs")
    yield setting("sampling.max_tokens", "4000", "note: sampling.max_tokens is 4,000", "context has 2,048", code=0)
    yield setting("prompts.limit", "1000", "note: prompts.limit is 1000", "only 6 prompts", code=0)
    yield Case(
        "policy and reference are one",
        lambda bench: ["validate", bench.config({"models.policy": str(bench.reference)})],
        ("policy and reference are the same model",),
    )
