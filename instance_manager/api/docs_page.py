"""The OpenAPI document as one page of HTML: nothing to load, no script. Pure."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; }
nav ul { columns: 2 20rem; padding-left: 1rem; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .5rem; text-align: left;
  vertical-align: top; }
.method { font-weight: 700; }
"""

_CODE: Final = re.compile(r"``?([^`]+)``?")
_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_METHODS: Final = ("get", "put", "post", "delete")
_SOCKET: Final = "/run/instance-manager/control.sock"
_TLS: Final = '--cacert ca.crt -H "Authorization: Bearer $(cat token)"'
_ACCESS: Final = {
    "reader": "Over TCP: open on loopback where nothing authenticates.",
    "operator": "Over TCP: with the token or a client certificate.",
}


def page(document: Mapping[str, Any]) -> str:
    """Return the page that shows an OpenAPI document."""
    info = document["info"]
    operations = list(_operations(document))
    schemas = document["components"]["schemas"]
    link = '<a href="/openapi.json">openapi.json</a>'
    body = "\n".join(
        (
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
            f"<p>{_text(info['description'])} The same for programs: {link}.</p>",
            _contents(operations, schemas),
            *(_operation(*each) for each in operations),
            *(_schema(name, schema) for name, schema in schemas.items()),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in document["paths"].items():
        # By name, since a path holds more than its methods, such as parameters.
        for method in _METHODS:
            if method in item:
                own = {**item[method]}
                # Those of a path hold for all its methods (OpenAPI, Path Item Object).
                own["parameters"] = [*item.get("parameters", ()), *own.get("parameters", ())]
                yield method.upper(), path, own


def _contents(
    operations: list[tuple[str, str, Mapping[str, Any]]], schemas: Mapping[str, Any]
) -> str:
    routes = "".join(
        f'<li><a href="#{escape(each["operationId"])}">'
        f'<span class="method">{method}</span> {escape(path)}</a></li>'
        for method, path, each in operations
    )
    documents = "".join(
        f'<li><a href="#schema-{escape(name)}">{escape(name)}</a></li>' for name in schemas
    )
    return f"<nav><h2>Routes</h2><ul>{routes}</ul><h2>Documents</h2><ul>{documents}</ul></nav>"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    body = operation.get("requestBody")
    sent = f"<p>Body: {_content(body['content'])}</p>" if body else ""
    return (
        f'<section id="{escape(operation["operationId"])}">'
        f'<h2><span class="method">{method}</span> <code>{escape(path)}</code></h2>'
        f"<p>{_text(operation['summary'])} {_access(operation)}"
        f" {_text(operation.get('description', ''))}</p>"
        f"{sent}{_parameters(operation['parameters'])}"
        f"{_responses(operation['responses'])}"
        f"<pre>{escape(_examples(method, path, operation))}</pre>"
        "</section>"
    )


def _access(operation: Mapping[str, Any]) -> str:
    """Return who may ask over TCP."""
    if "security" in operation:
        return f"{_ACCESS[operation['x-access']]} On the health listener: open."
    return _ACCESS[operation["x-access"]]


def _examples(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """Return the request as curl sends it: over the unix socket, and over TLS with a token."""
    verb = "" if method == "GET" else f"-X {method} "
    sent = "-H 'Content-Type: application/json' -d '{}' " if "requestBody" in operation else ""
    if any(each["name"] == "If-Match" for each in operation["parameters"]):
        sent += "-H 'If-Match: \"TAG\"' "
    place = _PLACEHOLDER.sub(lambda found: found[1].upper(), path)
    return (
        f"curl -s {verb}{sent}--unix-socket {_SOCKET} 'http://localhost{place}'\n"
        f"curl -s {verb}{sent}{_TLS} 'https://HOST:8000{place}'"
    )


def _parameters(parameters: list[Mapping[str, Any]]) -> str:
    rows = [
        (f"<code>{escape(each['name'])}</code>", each["in"], _text(each.get("description", "")))
        for each in parameters
    ]
    return _table(("parameter", "in", "meaning"), rows)


def _responses(responses: Mapping[str, Any]) -> str:
    rows = [
        (status, _content(each.get("content", {})), _meaning(each))
        for status, each in responses.items()
    ]
    return _table(("status", "answer", ""), rows)


def _meaning(response: Mapping[str, Any]) -> str:
    """Return what an answer means, and the headers that it has of its own."""
    headers = "".join(
        f"<br><code>{escape(name)}</code>: {_text(each['description'])}"
        for name, each in response.get("headers", {}).items()
    )
    return f"{escape(response['description'])}{headers}"


def _content(content: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{_type(each['schema'])} as <code>{escape(kind)}</code>" for kind, each in content.items()
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>{' *' if field in required else ''}",
            _type(entry),
            _text(entry.get("description", "")),
        )
        for field, entry in schema.get("properties", {}).items()
    ]
    texts = schema.get("x-enum-descriptions", {})
    values = [
        (f"<code>{escape(str(value))}</code>", _text(texts.get(value, "")))
        for value in schema.get("enum", ())
    ]
    return (
        f'<section id="schema-{escape(name)}"><h2>{escape(name)}</h2>'
        f"<p>{_text(schema.get('description', ''))}</p>{_table(('value', 'meaning'), values)}"
        f"{_table(('field', 'type', 'meaning'), rows)}</section>"
    )


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type in a few words; a reference is a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#schema-{name}">{name}</a>'
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(each) for each in schema[choice])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_type(schema['additionalProperties'])}"
    return escape(str(kind))


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    titles = "".join(f"<th>{title}</th>" for title in head)
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{titles}</tr>{cells}</table>"


def _text(text: str) -> str:
    """Return words of a docstring as HTML: what stands in backquotes is code."""
    # Escaped first, so that no tags are left but ours.
    return _CODE.sub(r"<code>\1</code>", escape(text))
