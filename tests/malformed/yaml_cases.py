"""Configs that are not what YAML, or a person, takes them for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.malformed.bench import Bench, Case, setting

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


def added(name: str, text: str, *says: str, code: int = 2) -> Case:
    """A fine config with more text at its end."""
    return Case(name, lambda bench: ["validate", bench.config(add=text)], says, code)


def whole(name: str, text: str | bytes, *says: str) -> Case:
    """A config that is this text."""
    return Case(name, lambda bench: ["validate", bench.write("c.yaml", text)], ("c.yaml", *says))


def changed(name: str, change: Callable[[bytes], bytes], *says: str, code: int = 2) -> Case:
    """A fine config, its bytes changed."""

    def make(bench: Bench) -> list[object]:
        path = bench.config()
        path.write_bytes(change(path.read_bytes()))
        return ["validate", path]

    return Case(name, make, says, code)


def with_norwegian(name: str, changes: dict[str, str], *arguments: str) -> Case:
    def make(bench: Bench) -> list[object]:
        folder = bench.parallel(no='{"id": "p1", "instruction": "Nevn tre dyr som lever i havet."}\n')
        return ["validate", bench.config({"prompts.path": str(folder), **changes}), *arguments]

    return Case(name, make, ("prompts in en, no",), 0)


def cases() -> Iterator[Case]:
    yield with_norwegian("no in a list", {"prompts.languages": "[en, no]"})
    yield with_norwegian("no in a list of the command line", {}, "--set", "prompts.languages=[en,no]")
    yield added("a section twice", "sampling: {n: 7}\n", "`sampling` is given twice, in line 4 and in line 8", ":8")
    yield added(
        "a key twice", "objective: dpo\nobjective: kto\n", "`objective` is given twice, in line 8 and in line 9"
    )
    yield setting("reward", "{beta: 1, precision: fp32, beta: 2}", "`reward.beta` is given twice, in line 5")
    yield setting("train.lora", "{rank: 4, rank: 8}", "`train.lora.rank` is given twice")
    yield added("a tab", "objective:\n\tdpo\n", "not with tabs", ":9")
    yield added("bad indentation", "alignment:\n  pairs: x\n limit: 3\n", "not valid YAML", ":10")
    yield added("a bracket that stays open", "alignment: [1\n", "not valid YAML")
    yield added("a quote that stays open", 'objective: "dpo\n', "not valid YAML")
    yield added("two documents", "---\nobjective: dpo\n", "second document", ":8")
    yield added("an alias that is not there", "objective: *nothing\n", "not valid YAML", "nothing", ":8")
    yield added("an alias in itself", "x: &x [*x]\n", "an alias refers to itself", ":8")
    yield added("a merge of itself", "x: &x {<<: *x}\n", "an alias refers to itself", ":8")
    yield added("a merge of a text", "x: {<<: dpo}\n", "`<<` needs a mapping", ":8")
    yield added("a bomb of aliases", BOMB, "remove aliases", "values")
    yield added("too deep", "x: " + "[" * 3000 + "]" * 3000 + "\n", "more than 50 levels")
    yield added("too deep in braces", "x: " + "{a: " * 3000 + "}" * 3000 + "\n", "more than 50 levels")
    yield added(
        "too deep by indentation",
        "".join(" " * n + "a:\n" for n in range(99)),
        "more than 50 levels",
        "config.yaml:57",
    )
    yield added("far too long", "# " + "x" * 100_000 + "\n", "too many for a settings file")
    yield added("a python object", "objective: !!python/name:os.system x\n", "python/name:os.system", ":8")
    yield added("a set", "x: !!set {a, b}\n", "tag:yaml.org,2002:set", ":8")
    yield added("binary", "objective: !!binary aGVsbG8=\n", "tag:yaml.org,2002:binary", ":8")
    yield added("a tag that does not fit", "rounds: !!int two\n", "two is not a whole number", ":8")
    yield added("a list as key", "? [a, b]\n: c\n", "a list or mapping is used as a key", ":8")
    yield added("a control character", "objective: dpo\x07\n", "#x0007", ":8")
    yield added("a number of 5,000 digits", f"rounds: {'9' * 5000}\n", "is not a whole number", ":8")
    yield added("a comment and a blank", "\n# nothing\n\n", "is fine", code=0)
    yield added("an anchor and a merge", "alignment: &a {pairs: x}\nx: {<<: *a}\n", "unknown key `x`", ":9")
    yield changed("a BOM", lambda data: b"\xef\xbb\xbf" + data, "is fine", code=0)
    yield changed("CRLF", lambda data: data.replace(b"\n", b"\r\n"), "is fine", code=0)
    yield changed("UTF-16", lambda data: data.decode().encode("utf-16"), "config.yaml", "is not UTF-8 text")
    yield changed("Latin-1", lambda data: data + "# Grüße\n".encode("latin-1"), "config.yaml", "is not UTF-8 text")
    yield changed("cut off", lambda data: data[:-3], "config.yaml")
    yield changed("zeros", lambda data: data + b"\0" * 100, "config.yaml:8", "#x0000")
    yield whole("empty", "", "`models` is missing", "`prompts` is missing")
    yield whole("only comments", "# nothing\n", "`models` is missing")
    yield whole("a list", "- a\n- b\n", "not a mapping")
    yield whole("a text", "hello\n", "not a mapping")
    yield whole("a zip", b"PK\x03\x04\xff\xfe" * 100, "is not UTF-8 text")
    yield whole("ten megabytes", b"\0" * 10_000_000, "10,000,000 bytes")
    yield Case("a folder", lambda bench: ["validate", bench.folder], ("is a folder", "name a YAML file"))
    yield Case("no such file", lambda bench: ["validate", bench.folder / "none.yaml"], ("none.yaml not found",))
    yield Case("no such recipe", lambda bench: ["validate", "quikstart"], ("quikstart not found", "quickstart"))
