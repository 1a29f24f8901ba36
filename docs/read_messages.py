"""The messages of UserError as they stand in the source, with a gap for what differs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GAP = "…"
MOST = 24
"""Readings of one text, for the branches in it."""
DEEPEST = 6
"""Names that are followed to other names."""
FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Message:
    """One message: what is wrong, and what to do."""

    what: str
    do: str


@dataclass
class Source:
    """A file of Python."""

    path: Path
    tree: ast.Module = field(init=False)
    nodes: list[ast.AST] = field(init=False)
    parents: dict[ast.AST, ast.AST] = field(init=False)
    bound: dict[str, ast.AST] = field(default_factory=dict)
    """Parameter of the function that makes the message → what the call that is looked at gives."""

    def __post_init__(self) -> None:
        self.tree = ast.parse(self.path.read_text(encoding="utf-8"))
        self.nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def messages(self) -> Iterator[tuple[int, list[Message]]]:
        """Line and readings of every call that makes a message; no readings where a known error is passed on."""
        for node in self.nodes:
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            what = node.args[0] if node.args else given.get("what")
            if what is None or not ("do" in given or _name(node) == "UserError"):
                continue
            yield node.lineno, list(self._by_call(what, given.get("do")))

    def _by_call(self, what: ast.AST, do: ast.AST | None) -> Iterator[Message]:
        """The readings; where the message is made in a function for others, those of each call of it."""
        function = self._function(what)
        calls = list(self._calls(function)) if function else []
        used = {part.id for root in (what, do) if root for part in ast.walk(root) if isinstance(part, ast.Name)}
        for bound in [found for found in calls if used & found.keys()] or [{}]:
            self.bound = bound
            yield from self._readings(what, do)
        self.bound = {}

    def _readings(self, what: ast.AST, do: ast.AST | None) -> Iterator[Message]:
        """Each text with the way out that was assigned beside it; where that is not clear, with all of them."""
        pairs: list[tuple[ast.AST, ast.AST | None]] = [(what, do)]
        if isinstance(what, ast.Name) and isinstance(do, ast.Name):
            both = self._values(what), self._values(do)
            if len(both[0]) == len(both[1]):
                pairs = list(zip(*both, strict=True))
        for one, way in pairs:
            returned = self._returned(way) if isinstance(way, ast.Call) else [way]
            ways = list(dict.fromkeys(text for value in returned for text in self.texts(value)))
            whats = self.texts(one)
            if not (isinstance(one, ast.IfExp) and isinstance(way, ast.IfExp) and len(whats) == len(ways)):
                ways = [_either(ways)] * len(whats)
            yield from map(Message, whats, ways)

    def refusals(self) -> Iterator[str]:
        """What the validators of a config say."""
        for node in self.nodes:
            if isinstance(node, ast.Call) and _name(node) == "ValueError" and node.args:
                yield from self.texts(node.args[0])

    def texts(self, node: ast.AST | None, depth: int = 0) -> list[str]:
        """What an expression may read as; empty where the source does not say.

        Names are followed to what may reach them, and parameters to the calls of their function in this file.
        """
        if node is None or depth > DEEPEST:
            return []
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else []
        if isinstance(node, ast.IfExp):
            return [*self.texts(node.body, depth + 1), *self.texts(node.orelse, depth + 1)]
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right], depth)
        if isinstance(node, ast.Name):
            values = self._values(node) or ([] if depth else self._default(node))
            return [text for value in values for text in self.texts(value, depth + 1)]
        if isinstance(node, ast.Attribute):
            values = [value for line in self.nodes for value in self._assigned(line, ast.unparse(node))]
            return [text for value in values for text in self.texts(value, depth + 1)]
        return []

    def _joined(self, parts: list[ast.expr], depth: int) -> list[str]:
        found = [""]
        for part in parts:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            options = self.texts(inner, depth + 1) or [GAP]
            options = [text for text in dict.fromkeys(options) if text] or [""]  # an addition that may be left out
            if len(found) * len(options) > MOST:
                options = [GAP]
            found = [start + option for start in found for option in options]
        found = [text.replace(GAP * 2, GAP) for text in found]  # one follows another: to a reader they are one
        return [text for text in found if text.strip(f"{GAP}: .()`")]

    def _values(self, name: ast.Name) -> list[ast.AST]:
        function, found = self._function(name), []
        if function is not None:
            found = list(self._reaching(name, function))
            if not found and name.id in self.bound:
                return [self.bound[name.id]]
            found = found or [call[name.id] for call in self._calls(function) if name.id in call]
        return (
            found
            or [value for node in self.tree.body for value in self._assigned(node, name.id)]
            or self._imported(name.id)
        )

    def _function(self, node: ast.AST) -> FUNCTION | None:
        while (node := self.parents.get(node)) is not None:  # type: ignore[assignment]
            if isinstance(node, FUNCTION):
                return node
        return None

    def _reaching(self, name: ast.Name, function: FUNCTION) -> Iterator[ast.AST]:
        """What a name may have been assigned when it is read, the latest first."""
        node: ast.AST = name
        while node is not function:
            parent = self.parents[node]
            for body in (getattr(parent, part, None) for part in ("body", "orelse", "finalbody")):
                if isinstance(body, list) and node in body:
                    for before in reversed(body[: body.index(node)]):
                        yield from (direct := list(self._assigned(before, name.id)))
                        if direct:
                            return
                        yield from self._inside(before, name.id)
            node = parent

    def _inside(self, statement: ast.AST, name: str) -> Iterator[ast.AST]:
        """The assignments in the branches of a statement that go on after it."""
        for part in ("body", "orelse", "handlers", "finalbody"):
            body = getattr(statement, part, [])
            if isinstance(body, list) and body and not isinstance(body[-1], ast.Raise | ast.Return | ast.Continue):
                for inner in body:
                    yield from self._assigned(inner, name)
                    yield from self._inside(inner, name)

    def _assigned(self, node: ast.AST, name: str) -> Iterator[ast.AST]:
        """The values that a statement gives to a name, also as part of a tuple or from a function of this file."""
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            return
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name | ast.Attribute) and ast.unparse(target) == name:
                yield node.value
            elif isinstance(target, ast.Tuple):
                places = [n for n, part in enumerate(target.elts) if ast.unparse(part) == name]
                values = self._returned(node.value) if isinstance(node.value, ast.Call) else [node.value]
                tuples = [value for value in values if isinstance(value, ast.Tuple)]
                yield from (value.elts[n] for n in places for value in tuples if len(value.elts) > n)

    def _returned(self, call: ast.Call) -> list[ast.expr]:
        """What a called function of this file returns."""
        functions = [node for node in self.nodes if isinstance(node, FUNCTION) and node.name == _name(call)]
        found = [node.value for each in functions for node in ast.walk(each) if isinstance(node, ast.Return)]
        return [value for value in found if value is not None]

    def _calls(self, function: FUNCTION) -> Iterator[dict[str, ast.AST]]:
        """What each call in this file gives to the function's parameters."""
        names = [argument.arg for argument in function.args.args if argument.arg not in ("self", "cls")]
        owner = self.parents[function]
        called = owner.name if function.name == "__init__" and isinstance(owner, ast.ClassDef) else function.name
        calls = [node for node in self.nodes if isinstance(node, ast.Call) and _name(node) == called]
        for call in calls:
            yield {
                **dict(zip(names, call.args, strict=False)),
                **{keyword.arg: keyword.value for keyword in call.keywords if keyword.arg},
            }

    def _default(self, name: ast.Name) -> list[ast.expr]:
        """A parameter's default. It is a reading of a whole text alone: within one it is a value like any other."""
        function = self._function(name)
        pairs = zip(reversed(function.args.args), reversed(function.args.defaults), strict=False) if function else ()
        return [default for argument, default in pairs if argument.arg == name.id]

    def _imported(self, name: str) -> list[ast.AST]:
        """A constant of another file of this tree."""
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
                path = Path(__file__).resolve().parents[1] / (node.module.replace(".", "/") + ".py")
                if path.is_file():
                    other = Source(path).tree.body
                    return [value for line in other for value in self._assigned(line, name)]
        return []


def _either(ways: list[str]) -> str:
    """The ways out in one sentence; after one that asks `did you mean …?` in another."""
    return "".join(
        f"{'' if n == 0 else ' Or: ' if ways[n - 1].endswith('?') else '; or '}{way}" for n, way in enumerate(ways)
    )


def _name(call: ast.AST) -> str:
    function = getattr(call, "func", None)
    return str(getattr(function, "id", getattr(function, "attr", "")))
