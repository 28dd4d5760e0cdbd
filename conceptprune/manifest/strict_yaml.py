"""Read YAML as plain data only, and keep the line and the spelling of each value.

Accepted: one document of mappings, lists and scalars. Tags, anchors, aliases, duplicate or
non-text keys and deep nesting are problems, because a manifest needs none of them, and each can
make a file mean something other than what it shows. Scalars that YAML 1.1 reads in a surprising way
(dates, octal `010`, base-60 `1:30`) become `Unreadable`, which no field accepts.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer

from conceptprune.manifest.fields import FieldPath

HAS_LIBYAML = bool(yaml.__with_libyaml__)
"""Whether PyYAML was built with libyaml, which some systems leave out."""

MAX_DEPTH = 12

_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,29})")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_TRUE = frozenset({"true", "yes", "on"})


class PlainYamlError(Exception):
    """Text that cannot be read as plain data; carries the 1-based line."""

    def __init__(self, line: int, found: str, allowed: str) -> None:
        super().__init__(found)
        self.line = line
        self.found = found
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A scalar that is neither text, a plain number, true or false, nor null."""

    text: str


@dataclass(slots=True)
class Document:
    """Plain data, with the line and the unquoted scalar text at every path."""

    data: Any = None
    lines: dict[FieldPath, int] = field(default_factory=dict)
    unquoted: dict[FieldPath, str] = field(default_factory=dict)
    repeated_keys: list[tuple[FieldPath, int, int]] = field(default_factory=list)
    """Path, line and first line of each repeated key."""


class _Plain(Composer):
    """A node composer that refuses everything but plain data, before building anything."""

    depth = 0
    peek_event: Any
    """From the parser, which a subclass adds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise PlainYamlError(line, f"alias *{event.anchor}", "values written out (no aliases)")
        if event.anchor is not None:
            raise PlainYamlError(line, f"anchor &{event.anchor}", "values written out (no anchors)")
        if event.tag is not None:
            raise PlainYamlError(line, f"tag {event.tag}", "plain values (no tags)")
        if self.depth >= MAX_DEPTH:
            raise PlainYamlError(
                line, f"more than {MAX_DEPTH} nested levels", "a flatter structure"
            )
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Loader(_Plain, yaml.SafeLoader):
    """The same on PyYAML's own parser, whose messages are the ones that are shown."""


# YAML 1.1 wants a dot in a float; everyone who writes "1e-3" means a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


_C_LOADER: Any = yaml.CSafeLoader if HAS_LIBYAML else yaml.SafeLoader


class _FastLoader(_Plain, _C_LOADER):  # type: ignore[misc]
    """The same on libyaml, which takes a quarter of the time; lists may have 60,000 names."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def __init__(self, text: str) -> None:
        _C_LOADER.__init__(self, text)
        Composer.__init__(self)


def _composed(text: str) -> yaml.Node | None:
    if HAS_LIBYAML:
        try:
            return _FastLoader(text).get_single_node()
        except (yaml.YAMLError, ValueError, OverflowError, PlainYamlError):
            # PyYAML's own parser reports errors, so that the messages stay the same.
            pass
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:
        # PyYAML lets chr() raise on an escape such as "\UFFFFFFFF".
        found = "an escape sequence beyond Unicode"
        raise PlainYamlError(loader.line + 1, found, "YAML text") from error
    finally:
        loader.dispose()


def read_yaml(text: str) -> Document:
    """Parse `text`, which must hold one YAML document of plain data.

    Raises:
        PlainYamlError: for a syntax error, a second document, a tag, an anchor, an alias, a
            key that is not text, or more than `MAX_DEPTH` nested levels.

    """
    try:
        root = _composed(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = ", ".join(part for part in (error.context, error.problem) if part)
        raise PlainYamlError(mark.line + 1 if mark else 1, found, "one YAML document") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise PlainYamlError(line, f"the character {error.character!r}", "YAML text") from error
    document = Document()
    if root is not None:
        document.data = _plain(root, (), document)
    return document


def _plain(node: yaml.Node, path: FieldPath, document: Document) -> Any:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.ScalarNode) and not node.style:
        document.unquoted[path] = node.value
    return _scalar(node.tag, node.value)


def _mapping(node: yaml.MappingNode, path: FieldPath, document: Document) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node.tag, key_node.value) if key_node.id == "scalar" else None
        if not isinstance(key, str):
            shown = str(key_node.value) if key_node.id == "scalar" else f"a {key_node.id}"
            raise PlainYamlError(line, f"key {shown}", "keys that are words (or in quotes)")
        key_path = (*path, key)
        if key in data:
            document.repeated_keys.append((key_path, line, document.lines[key_path]))
            continue
        # The key's line; its value may start on a later one.
        document.lines[key_path] = line
        data[key] = _plain(value_node, key_path, document)
    return data


def _scalar(tag: str, text: str) -> Any:
    match tag.removeprefix("tag:yaml.org,2002:"):
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() in _TRUE
        case "int" if _NUMBER.fullmatch(text):
            return int(text)
        case "float" if _DECIMAL.fullmatch(text):
            return float(text)
        case _:
            return Unreadable(text)
