"""Command lines that cannot be meant."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from tests.malformed.bench import Bench, Case


def said(name: str, line: str, *says: str, code: int = 2) -> Case:
    """A command line; CONFIG is a fine config, DIR the case's folder, MODEL a model."""

    def make(bench: Bench) -> list[object]:
        words = {"CONFIG": bench.config(), "MODEL": bench.policy, "HELDOUT": bench.heldout}
        return [words.get(word, word.replace("DIR", str(bench.folder))) for word in line.split("|")]

    return Case(f"command: {name}", make, says, code)


def evaluated(name: str, change: str, *says: str, prepare: Callable[[Bench], object] | None = None) -> Case:
    """`icr judge xalpaca` on given answers, with one argument changed: `--option=value`."""

    def make(bench: Bench) -> list[object]:
        rows = [{"id": f"p{n}", "instruction": "?", "output": "x"} for n in (11, 12)]
        bench.write("mine/en.json", json.dumps(rows))
        bench.write("base/en.json", json.dumps(rows))
        if prepare is not None:
            prepare(bench)
        options = {
            "--judge": f"local:{bench.reference}",
            "--baseline": str(bench.folder / "base"),
            "--languages": "en",
            "--out": str(bench.folder / "out"),
        }
        option, _, value = change.partition("=")
        options[option] = value.replace("DIR", str(bench.folder))
        return ["judge", "xalpaca", bench.folder / "mine", *(part for pair in options.items() for part in pair)]

    return Case(f"evaluation: {change} {name}".strip(), make, says)


def translated(change: str, *says: str, prepare: Callable[[Bench], object] | None = None) -> Case:
    """`icr prompts translate` with one argument changed."""

    def make(bench: Bench) -> list[object]:
        options = {
            "--to": "es", "--source": str(bench.lines("s.jsonl", {"id": 1, "instruction": "Name a river."})),
            "--out": str(bench.folder / "out"), "--translator": "openai:m", "--base-url": "http://127.0.0.1:9/v1",
        }  # fmt: skip
        if prepare is not None:
            prepare(bench)
        option, _, value = change.partition("=")
        options[option] = value.replace("DIR", str(bench.folder))
        return ["prompts", "translate", *(part for pair in options.items() for part in pair)]

    return Case(f"translation: {change}", make, says)


def preferred(name: str, content: str | bytes, *says: str, options: str = "--lang|en") -> Case:
    """`icr rm data` on a file s.jsonl."""

    def make(bench: Bench) -> list[object]:
        source = bench.write("s.jsonl", content)
        return ["rm", "data", source, "--out", bench.folder / "out", *(options.split("|") if options else [])]

    return Case(f"preference data: {name}", make, says)


def preferences() -> Iterator[Case]:
    pair = '{"prompt": "Q", "chosen": "A", "rejected": "B"}\n'
    yield preferred("nothing", "", "the source has no rows", "s.jsonl")
    yield preferred("not UTF-8", b'{"prompt": "Q", "chosen": "\xff", "rejected": "B"}', "not UTF-8", "s.jsonl:1")
    yield preferred("no side", pair + '{"prompt": "Q", "chosen": "A"}', "without a text in `rejected`", "s.jsonl:2")
    yield preferred("equal sides", pair + pair.replace('"B"', '"A"'), "the same text", "s.jsonl:2")
    yield preferred("an unknown form", '{"question": "Q"}', "no known form", "question", "s.jsonl:1")
    yield preferred("an unknown format", pair, "unknown format csv", "--format", options="--lang|en|--format|csv")
    yield preferred("no language", pair, "no row is left", "1 language unknown", "--lang", options="")
    yield preferred("not a language", pair, "'xx'", "--lang", options="--lang|xx")
    yield preferred("half a row held back", pair, "neither a share nor", options="--lang|en|--validation|1.5")
    yield preferred("all held back", pair, "leave none to train on", options="--lang|en|--validation|1")
    yield preferred("more than all held back", pair, "neither a share nor", options="--lang|en|--validation|inf")
    yield preferred("a benchmark", pair.replace("}", ', "subset": "x"}'), "rows of a benchmark", "icr rm bench")


def published() -> Iterator[Case]:
    """Rows of public forms with a part that is missing or wrong, each behind a row that is fine."""
    scored = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 2, "score_rejected": 1}
    shared = {"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
              "rejected": {"from": "gpt", "value": "b"}}  # fmt: skip
    preferred_ = {"context": "q", "response1": "a", "response2": "b", "overall_preference": 1}
    said_ = "\n\nHuman: q\n\nAssistant: "
    rated = {"prompt": "q", "response": "a", "label": 1}
    for name, row, change, what in (
        ("a score", scored, {"score_chosen": None}, "`score_chosen` is missing"),
        ("a scored side", scored, {"rejected": None}, "without a text in `rejected`"),
        ("a conversation", shared, {"conversations": None}, "`conversations` is not a list"),
        ("a shared side", shared, {"chosen": None}, "without a text in `chosen`"),
        ("a context", preferred_, {"context": None}, "without a text in `prompt`"),
        ("a preference", preferred_, {"overall_preference": "much"}, "`overall_preference` is 'much'"),
        ("a preferred response", preferred_, {"response2": 3}, "`response2` is not a text"),
        ("a transcript", {"chosen": said_ + "a", "rejected": said_ + "b"}, {"rejected": "b"}, "is not a transcript"),
        ("a label", rated, {"label": "good"}, "the label 'good' is neither 0 nor 1"),
        ("no label", rated, {"label": None}, "`label` is missing"),
        ("a response", rated, {"response": " "}, "`response` is empty"),
    ):
        rows = [{**row, "id": "1"}, {**row, **change, "id": "2"}]
        yield preferred(f"{name} of a public form", "\n".join(map(json.dumps, rows)), what, "s.jsonl:2")


def rewards() -> Iterator[Case]:
    """`icr rm train`, `eval` and `bench`."""
    yield said("reward model: no config", "rm|train|DIR/none.yaml", "none.yaml not found", "icr recipes")
    yield said("reward model: an unknown key", "rm|train|rmt-oasst1|--set|margn=true", "unknown key `margn`", "margin")
    yield said("reward model: no data", "rm|train|rmt-oasst1|--run|DIR/r", "not found", "data.path", "icr rm data")
    line = "rm|train|rmt-oasst1|--run|DIR/r|--set|train.beta=0.2|--set|base=x.gguf"
    yield said("reward model: keys and files", line, "no meaning for a reward model", "x.gguf", "data.path")
    line = "rm|eval|--implicit|MODEL,MODEL|--beta|nan|--data|DIR|--out|DIR/o"
    yield said("reward accuracy: a unit", line, "β is nan", "--beta", "--data")
    line = "rm|eval|--judge|openai:m|--data|DIR|--out|DIR/o|--set|judge.preference=logprobs"
    yield said("reward accuracy: label probabilities", f"{line}|--set|judge.base_url=http://127.0.0.1:9/v1",
               "explains its verdict before the label", "judge.preference: logprobs")  # fmt: skip
    line = "rm|bench|--on|DIR/none.jsonl|--out|DIR/o|--judge-rows|3"
    yield said("reward benchmark: no judge", line, "no judge is named", "--judge-rows")
    line = "rm|bench|DIR/none|--on|DIR/none.jsonl|--out|DIR/o"
    yield said("reward benchmark: models and rows", line, "model folder", "MODEL", "none.jsonl not found", "--on")
    yield said("reward accuracy: no data", "rm|eval|MODEL|--data|DIR|--out|DIR/o", "not a folder of preference data")
    yield said("reward accuracy: a split", "rm|eval|MODEL|--data|DIR|--out|DIR/o|--split|test", "unknown split test")
    yield said("reward benchmark: no rows", "rm|bench|--on|DIR/none.jsonl|--out|DIR/o", "none.jsonl not found", "--on")
    yield said("a look: at nothing", "rm|look|--out|DIR/o", "nothing to measure", "--data")
    yield said("a look: no languages", "rm|look|x|--parallel|HELDOUT|--out|DIR/o", "needs the languages", "--languages")
    yield said("a look: a state", "rm|look|x|--parallel|HELDOUT|--states|first|--out|DIR/o", "unknown state first")
    yield said("a look: rates alone", "rm|look|--rates|DIR/r.csv|--out|DIR/o", "--rates and --features need each other")
    yield said("reward benchmark: a language", "rm|bench|--on|x|--out|DIR/o|--lang|xx", "'xx'", "--lang")


def transfer() -> Iterator[Case]:
    """`icr transfer`."""
    yield said("people: no pairs", "human|import|DIR|DIR/v.csv", "no exported pairs", "icr human export")
    line = "human|export|DIR/none|--baseline|DIR|--languages|de|--out|DIR/o"
    yield said("people: no answers", line, "no answers in de", "none", "add de.json")
    yield said("sft: no data", "sft|rmt-oasst1-sft|--set|data.path=x", "not found", "data.path")
    yield said("sft: a run's config", "sft|CONFIG|--set|data.path=x", "is a config of icr iterate, not of icr sft")
    yield said("rl: not there", "rl|rmt-rl|--set|reward={beta: -1}", "`reward.beta` takes", "folder", "prompts.path")
    yield said("transfer: no file", "transfer|DIR/none.yaml", "none.yaml not found")
    yield said("transfer: a recipe of another command", "transfer|rmt-oasst1", "write: icr rm train rmt-oasst1")


def best() -> Iterator[Case]:
    """`icr best-of-n`."""
    line = "best-of-n|MODEL|--reward|DIR/none|--prompts|HELDOUT|--languages|en|--out|DIR/o"
    yield said("best of n: no reward model", line, "none not found", "--reward")
    yield said("best of n: k above n", f"{line}|--n|8|--k|9", "k is 9", "has 8 candidates", "--k")
    said_ = "`sampling.n`", "none not found", "the key for the endpoint is missing"
    yield said("best of n: one candidate", f"{line}|--n|1|--judge|openai:m", *said_)
    yield said("best of n: beta", f"{line}|--set|reward.beta=-1", "`reward.beta`", "-1")
    yield said("best of n: a language", line.replace("|en|", "|de|"), "no prompts in de", "--prompts")
    yield said("best of n: no language", line.replace("|en|", "|,|"), "no language is given", "--languages")
    yield said(
        "best of n: one model", line.replace("DIR/none", "multilingual:x"), "needs two models", "POLICY,REFERENCE"
    )


def cases() -> Iterator[Case]:
    yield said("unknown", "iterat", "iterat")
    yield said("no config", "validate", "'CONFIG'")
    yield said("an unknown option", "validate|CONFIG|--quick", "--quick")
    yield said("--set without a value", "validate|CONFIG|--set|sampling.n", "--set sampling.n", "`=` is missing")
    yield said("--set without a key", "validate|CONFIG|--set|=3", "--set =3", "the key is missing")
    yield said("--set with an empty part", "validate|CONFIG|--set|sampling..n=3", "--set sampling..n=3")
    yield said("--set of an unknown key", "validate|CONFIG|--set|sampling.m=3", "unknown key `sampling.m`", "--set")
    yield said("--set of a section", "validate|CONFIG|--set|sampling=3", "`sampling` is a section", "--set sampling=3")
    yield said("--set below a value", "validate|CONFIG|--set|sampling.n.m=3", "`sampling.n`", "--set sampling.n.m=3")
    yield said("--set that is no YAML", "validate|CONFIG|--set|reward.kind=[", "--set reward.kind=[", "not valid YAML")
    yield said("--set of yes", "validate|CONFIG|--set|sampling.n=yes", "`sampling.n`", "'yes'", "--set sampling.n=yes")
    yield said("--set of NaN", "validate|CONFIG|--set|train.beta=.nan", "`train.beta`", "--set train.beta=.nan")
    yield said("--set of nothing", "validate|CONFIG|--set|models.reference=", "`models.reference`")
    yield said("rounds that are a text", "iterate|--config|CONFIG|--rounds|many", "--rounds")
    yield said("no rounds", "iterate|--config|CONFIG|--rounds|0", "--rounds")
    yield said("a negative round", "sample|--run|DIR|--round|-1", "--round")
    yield Case(
        "command: a key of another kind of config",
        lambda bench: ["rl", bench.write("x.yaml", "policy: a\n")],
        ("`reward` is missing", "docs/rl-config.md describes it"),
    )
    at_the_top = (
        "run: r\nbase: a\nlanguages: {sources: [de], targets: [de]}\ndata: {preferences: x}\njudges: [{model: a}]\n"
    )
    yield Case(
        "command: keys that need each other",
        lambda bench: ["transfer", bench.write("x.yaml", at_the_top)],
        ("1. judges compare what align makes", "docs/transfer-matrix.md describes the keys"),
    )
    yield said("an unknown recipe", "iterate|--config|quikstart", "quikstart not found", "did you mean quickstart?")
    yield said("a recipe of another command", "iterate|--config|rmt-rl", "rmt-rl is a recipe of icr rl", "icr rl")
    yield said("an unknown objective", "iterate|--config|CONFIG|--objective|dop|--run|DIR/r", "unknown objective dop")
    yield said("judge without a round", "judge|--run|DIR", "no round", "--round")
    yield said("judge without anything", "judge", "no round and no benchmark")
    yield said("a variation without values", "compare|CONFIG|--vary|reward.kind|--out|DIR/o", "--vary reward.kind")
    yield said("an empty variation", "compare|CONFIG|--vary|reward.kind=|--out|DIR/o", "--vary reward.kind=")
    yield said("a variation twice", "compare|CONFIG|--vary|sampling.n=4|--vary|sampling.n=8|--out|DIR/o", "twice")
    yield said("a value twice", "compare|CONFIG|--vary|sampling.n=4,4|--out|DIR/o", "--vary sampling.n=4,4")
    yield said("a variation of the run", "compare|CONFIG|--vary|run=a,b|--out|DIR/o", "run cannot be varied")
    yield said("a variation of nothing", "compare|CONFIG|--vary|a.b=1,2|--out|DIR/o", "unknown key `a`")
    yield said("a variation that is no YAML", "compare|CONFIG|--vary|sampling.n=[4|--out|DIR/o", "--vary sampling.n=[4")
    yield said(
        "a wrong value among several", "compare|CONFIG|--vary|sampling.n=4,yes|--out|DIR/o", "`sampling.n`", "'yes'"
    )
    yield said("check of no folder", "prompts|check|DIR/none", "none")
    yield said("check without English", "prompts|check|DIR", "en.jsonl")
    yield from preferences()
    yield from published()
    yield from rewards()
    yield from transfer()
    yield from best()
    yield evaluated("leads outside", "--languages=../x", "'../x'", "--languages")
    yield evaluated("is a path", "--languages=/etc/x", "'/etc/x'", "--languages")
    yield evaluated("is empty", "--languages=,", "--languages")
    yield evaluated("is twice", "--languages=en,en", "listed twice: en", "--languages")
    yield evaluated("is in capitals", "--languages=EN", "'EN'", "--languages")
    yield evaluated("has no answers", "--languages=de", "de")
    yield evaluated("has no model", "--judge=local:", "unknown judge local:", "--judge")
    yield evaluated("is a name alone", "--judge=gpt", "unknown judge gpt", "--judge")
    yield evaluated("is a module that is not there", "--judge=no_such:Judge", "no_such", "--judge,")
    yield evaluated("is a folder that is not there", "--judge=local:./none", "none not found")
    yield evaluated("is not there", "--baseline=DIR/none", "none not found", "where: --baseline", "LANG.jsonl")
    yield evaluated("is of a run", "--baseline=round-0", "round-0 not found", "do:    name a folder of LANG.json or")
    yield evaluated("is a file", "--out=DIR/mine/en.json", "en.json", "is a file")
    yield evaluated("is below a file", "--out=DIR/mine/en.json/x", "en.json", "this is a file, but a folder is needed")
    yield evaluated("is none", "--limit=0", "--limit")
    line = "judge|mtbench|MODEL|--judge|mine:Judge|--questions|DIR|--languages|en|--out|DIR/o"
    yield said("a judge without grades", line, "where: --judge: mine:Judge", "use --judge local:MODEL or openai:MODEL")
    line = line.replace("mine:Judge", "openai:m").replace("|DIR|", "|DIR/none|") + "|--dry-run"
    yield said("no questions", line, "none not found", "where: --questions")
    line = "human|export|DIR/none|--baseline|DIR/nor|--languages|es|--out|DIR/o"
    yield said("no answers for people", line, "none not found", "where: ANSWERS", "nor not found", "where: --baseline")
    yield said("no votes", "human|import|DIR/none|DIR/a.csv", "none not found", "where: FOLDER")
    yield evaluated("an unknown key", "--set=judge.oders=both", "unknown key `judge.oders`", "judge.orders")
    yield evaluated("languages by another way", "--set=languages=[../x]", "'../x'")
    yield evaluated("seeds by a text", "--set=sampling.seed=x", "`sampling.seed`", "--set sampling.seed=x")
    silver = "rm|translate|DIR/none|--to|xx|--out|DIR/out|--translator|local:./none"
    yield said("rm translate", silver, "/none not found", "where: FOLDER", "'xx'", "./none not found")
    yield translated("--to=xx", "'xx'")
    yield translated("--to=../x", "'../x'")
    yield translated("--to=", "--to")
    yield translated("--to=en", "--to", "already in English")
    yield translated("--from=de", "--from", "'de'")
    yield translated("--translator=deepl", "--translator", "'deepl'")
    yield translated("--translator=local:./none", "none not found", "--translator")
    yield translated("--backend=magic", "--backend", "magic")
    yield translated("--budget=0", "--budget")
    yield translated("--budget=5", "--budget", "--prices")
    yield translated("--base-url=ftp://x", "--base-url", "ftp://x")
    yield translated("--prices=none.yaml", "none.yaml", "cannot be read")
    yield translated("--source=./none.jsonl", "none.jsonl not found", "--source")
    yield translated("--out=DIR/s.jsonl", "s.jsonl", "--out")
    yield translated(
        "--out=DIR/mine",
        "mine",
        "other English prompts",
        prepare=lambda b: b.lines("mine/en.jsonl", {"id": 1, "instruction": "Other."}),
    )
    yield Case(
        "translation: a file that is not ours",
        lambda bench: [
            "prompts", "translate", "--to", "es", "--translator", "openai:m", "--base-url", "http://127.0.0.1:9/v1",
            "--source", bench.lines("s.jsonl", {"id": 1, "instruction": "Name a river."}),
            "--out", bench.lines("out/es.jsonl", {"id": 1, "instruction": "Nombra un río."}).parent,
        ],
        ("es.jsonl",),
    )  # fmt: skip
