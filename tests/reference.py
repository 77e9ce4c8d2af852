"""The reference pages of the documentation, one per config group: `python -m tests.reference` writes docs/reference.

Everything on them comes from the YAML files and the dataclasses they name, so the pages cannot disagree with the program.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
import tokenize
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from elongate.cli import conf_directory
from elongate.training.job import PlanOptions, SweepOptions

PAGES = Path(__file__).parents[1] / "docs/reference"


@dataclass(frozen=True)
class Group:
    path: str  # below conf/
    question: str  # what one decides by choosing a word of it


GROUPS = [
    Group("model", "Which network is trained."),
    Group("context", "Which strategy extends the context. A preset chooses one answer of each of the four groups that follow."),
    Group("context/position", "Where each token is: rotary frequencies, learned tables or a bias."),
    Group("context/sampling", "Which positions the tokens of a training sequence get. `null`, the default: 0, 1, 2 …"),
    Group("context/attention", "Which tokens see each other."),
    Group("context/curriculum", "How the length grows during training."),
    Group("objective", "What is learned."),
    Group("optimizer", "How weights are updated."),
    Group("schedule", "How the learning rate changes over the steps."),
    Group("data", "Where the text comes from."),
    Group("tokenizer", "How text becomes tokens."),
    Group("tuning", "Which weights are trained in the extension."),
    Group("memory", "How a long sequence fits into memory. No result depends on it."),
    Group("evaluation", "What is measured. A list: `evaluation=[curve,needle]`."),
    Group("tracking", "Where a run is logged."),
    Group("experiment", "Presets of whole runs."),
    Group("sweep", "Presets of comparisons, for `-m`."),
]


def pages() -> dict[str, str]:
    """The text of each page by file name."""
    written = {f"{group.path.replace('/', '_')}.md": page(group) for group in GROUPS}
    return written | {"scalars.md": scalars_page(), "index.md": index_page()}


def index_page() -> str:
    rows = [f"| [`{g.path}`]({g.path.replace('/', '_')}.md) | {g.question} | {words(g)} |" for g in GROUPS]
    intro = (
        "# Config reference\n\nChoose a word with `group=word`, set a key with `path.to.key=value`. "
        "`python train.py --cfg job` prints every key of a command.\n"
    )
    return "\n".join([intro, "| group | decides | words |", "|---|---|---|", *rows, "", "[Top-level keys](scalars.md)", ""])


def words(group: Group) -> str:
    return ", ".join(f"`{path.stem}`" for path in choices(group))


def choices(group: Group) -> list[Path]:
    return sorted((conf_directory() / group.path).glob("*.yaml"))


def page(group: Group) -> str:
    parts = [f"# `{group.path}`", group.question]
    for path in choices(group):
        parts += [f"## `{group.path}={path.stem}`", *section(path)]
    return "\n\n".join(parts) + "\n"


def section(path: Path) -> list[str]:
    text = path.read_text()
    node = yaml.safe_load(text) or {}
    comment = leading_comment(text)
    if "_target_" not in node:
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        return [*([comment] if comment else []), f"```yaml\n{body.strip()}\n```"]
    cls = target(node["_target_"])
    keys = {key: value for key, value in node.items() if key not in ("_target_", "defaults")}
    return [*([comment] if comment else []), *description(cls), *([key_table(cls, keys, text)] if keys else ["No keys."])]


def leading_comment(text: str) -> str:
    """The comment lines at the top of a YAML file, as one paragraph."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return escaped(" ".join(lines))


def target(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)


def description(cls: type) -> list[str]:
    """The module's docstring, which names the method and its source."""
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    return [escaped(module)] if module else []


def escaped(text: str) -> str:
    """Text for Markdown: no accidental HTML."""
    return text.replace("<", "&lt;")


def key_table(cls: type, keys: dict[str, Any], text: str) -> str:
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *key_rows(cls, keys, text, "")])


def key_rows(cls: type, keys: dict[str, Any], text: str, path: str) -> list[str]:
    """A row for every key; the keys of an inner dataclass follow with their paths."""
    documented = field_comments(cls)
    comments = yaml_comments(text)
    types = {field.name: str(field.type) for field in fields(cls)} if is_dataclass(cls) else {}
    rows = []
    for key, value in keys.items():
        inner = get_type_hints(cls)[key] if isinstance(value, dict) else None
        if isinstance(inner, type) and is_dataclass(inner):
            rows += key_rows(inner, value, "", f"{path}{key}.")
            continue
        meaning = documented.get(key) or comments.get(key, "")
        rows.append(f"| `{path}{key}` | `{cell(types.get(key, ''))}` | `{shown(value)}` | {cell(meaning)} |")
    return rows


def shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def cell(text: str) -> str:
    return escaped(text).replace("|", "\\|")


def yaml_comments(text: str) -> dict[str, str]:
    """Comments at the end of a line, by the key of the line."""
    found = re.findall(r"^(\w+):[^#\n]*#\s*(.+)$", text, flags=re.MULTILINE)
    return dict(found)


def field_comments(cls: type) -> dict[str, str]:
    """Comments behind the fields of a dataclass and of the classes it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if is_dataclass(base):
            found |= own_field_comments(base)
    return found


@cache
def own_field_comments(cls: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: comments[node.end_lineno or node.lineno]
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and (node.end_lineno or node.lineno) in comments
    }


def scalars_page() -> str:
    text = (conf_directory() / "train.yaml").read_text()
    node = yaml.safe_load(text)
    comments = yaml_comments(text)
    scalars = {key: value for key, value in node.items() if not isinstance(value, (dict, list))}
    rows = [f"| `{key}` | `{shown(value)}` | {cell(comments.get(key, ''))} |" for key, value in scalars.items()]
    training = [f"| `training.{key}` | `{shown(value)}` | |" for key, value in node["training"].items()]
    others = [
        f"| `{group}.{key}` | `{shown(value)}` | {cell(field_comments(options)[key])} |"
        for group, options in (("plan", PlanOptions), ("sweep", SweepOptions))
        for key, value in node[group].items()
    ]
    return "\n".join(["# Top-level keys", "", "| key | default | meaning |", "|---|---|---|", *rows, *training, *others, ""])


def main() -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main()
