"""The API describes itself: as an OpenAPI document, and as a page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema_rs import validator_for
from openapi_spec_validator import OpenAPIV31SpecValidator

from instance_manager.api.descriptions import DESCRIPTIONS
from instance_manager.api.docs_page import page
from instance_manager.api.openapi import document
from instance_manager.api.problems import STATUSES
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES
from instance_manager.client import Client
from instance_manager.settings import Settings
from instance_manager.settings.schema import schema as settings_schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Serving


def test_each_route_is_described_and_nothing_else() -> None:
    """A row in one table for each in the other, in the same words."""
    routes = {(route.method, route.path) for route in HEALTH_ROUTES + CONTROL_ROUTES}

    assert set(DESCRIPTIONS) == routes


def test_each_operation_has_a_name_of_its_own_that_the_client_knows() -> None:
    """Generated clients and ours call the same thing the same."""
    names = [description.name for description in DESCRIPTIONS.values()]
    probes = {"livez", "healthz", "startupz", "readyz"}
    ours = {name for name in names if name.removesuffix("_check") not in probes} - {"docs"}

    assert len(names) == len(set(names))
    assert ours <= set(dir(Client))


def references(node: Any) -> Iterator[str]:
    """Yield what a document refers to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    """Each is a JSON Schema of the dialect that OpenAPI 3.1 has."""
    described = document()
    schemas = described["components"]["schemas"]

    assert {ref.rpartition("/")[2] for ref in references(described)} <= set(schemas)
    for name in schemas:
        whole = {"$ref": f"#/components/schemas/{name}", "components": described["components"]}
        validator_for(whole)


def test_the_document_is_one_of_openapi_3_1() -> None:
    """By the specification's own schema; a document that lacks something is seen not to be."""
    described = document()
    errors = [error.message for error in OpenAPIV31SpecValidator(described).iter_errors()]
    del described["paths"]["/v1/status"]["get"]["responses"]["200"]["description"]

    assert errors == []
    assert not OpenAPIV31SpecValidator(described).is_valid()


def test_everything_in_the_document_is_described() -> None:
    """Each property, parameter, header, tag, server, scheme and document, in a sentence."""
    described = document()
    items = described["paths"].values()
    operations = [each for item in items for key, each in item.items() if key != "parameters"]
    answers = [answer for each in operations for answer in each["responses"].values()]
    schemas = described["components"]["schemas"].values()
    things: list[tuple[str, dict[str, Any]]] = [
        *(("document", each) for each in schemas),
        *(pair for each in schemas for pair in each.get("properties", {}).items()),
        *((one["name"], one) for each in (*items, *operations) for one in parameters(each)),
        *(pair for each in answers for pair in each.get("headers", {}).items()),
        *((each["name"], each) for each in described["tags"]),
        *((each["url"], each) for each in described["servers"]),
        *described["components"]["securitySchemes"].items(),
    ]

    assert len(things) > 300
    assert [name for name, each in things if not is_sentence(each.get("description", ""))] == []
    assert all(is_sentence(each["summary"]) for each in operations)
    for schema in schemas:
        texts = schema.get("x-enum-descriptions", {})
        assert [value for value in schema.get("enum", ()) if not is_sentence(texts[value])] == []
    assert {each for one in operations for each in one["tags"]} == {
        each["name"] for each in described["tags"]
    }


def test_what_is_measured_says_its_unit() -> None:
    """Seconds and bytes, in the answers and in the settings; a range says its ends."""
    schemas = document()["components"]["schemas"] | settings_schema()["$defs"]
    fields = [pair for each in schemas.values() for pair in each.get("properties", {}).items()]
    measured = [(name, each["description"]) for name, each in fields]

    for unit in ("seconds", "bytes"):
        named = [text for name, text in measured if name.split("_")[-1] == unit]
        assert named
        assert [text for text in named if unit not in text.lower()] == []
    for _, each in fields:
        bounds = [each, *each.get("anyOf", ())]
        for maximum in (bound["maximum"] for bound in bounds if "maximum" in bound):
            assert f"{maximum:g}" in each["description"]


def parameters(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters of a path or an operation."""
    found: list[dict[str, Any]] = node.get("parameters", [])
    return found


def is_sentence(text: str) -> bool:
    """Return whether a text says something, and comes to its end."""
    return text.endswith((".", ")")) and "  " not in text


def test_the_lists_of_the_configuration_say_what_they_hold() -> None:
    """As the settings have it, so that no author of an operator has to guess."""
    schemas = document()["components"]["schemas"]
    lists = schemas["ConfigurationDocument"]["properties"]

    for name, model in (("volumes", "VolumeSettings"), ("databases", "DatabaseSettings")):
        assert lists[name]["items"] == {"$ref": f"#/components/schemas/{model}"}
        assert schemas[model]["required"] == ["name"]


async def test_what_comes_back_at_once_is_one_of_two_documents(serving: Serving) -> None:
    """An update that has finished is an operation; a rehearsal is none: a 200 is either."""
    described = document()
    path = "/v1/databases/{name}/extensions/{extension}/update"
    answers = described["paths"][path]["post"]["responses"]
    schema = answers["200"]["content"]["application/json"]["schema"]
    fits = validator_for({**schema, "components": described["components"]}).is_valid
    url = path.replace("{name}", "app").replace("{extension}", "toy")
    json_headers = {"Content-Type": "application/json", "Prefer": "wait=10"}
    async with serving() as served:
        served.instance.release.set()
        done = await served.ask("POST", url, b"{}", headers=json_headers)
        tried = await served.ask("POST", url, b'{"dry_run": true}', headers=json_headers)

    assert (done.status, tried.status) == (200, 200)
    operation, rehearsal = json.loads(done.body), json.loads(tried.body)
    assert operation["kind"] == "update-extension"
    assert rehearsal["rolled_back"] is True
    assert fits(operation)
    assert fits(rehearsal)
    assert not fits(operation | rehearsal)
    assert not fits({})


def test_the_unix_socket_says_whom_it_lets_in() -> None:
    """No scheme of OpenAPI fits the kernel's word for who the peer is."""
    described = document()
    first = described["servers"][0]

    assert first["x-authentication"] == "peer-credentials"
    assert first["x-unix-socket"] == str(Settings().control.socket)
    assert "SO_PEERCRED" in first["description"]
    assert {} in described["security"]


def test_every_documented_status_of_a_problem_is_one_that_problems_have() -> None:
    """No invention."""
    known = {*STATUSES.values(), 200, 202, 503}

    for description in DESCRIPTIONS.values():
        assert set(description.problems) | set(description.answers) <= known


def test_fields_say_what_they_mean() -> None:
    """What stands below a field in the source stands in the document."""
    schemas = document()["components"]["schemas"]

    assert "ISO" not in json.dumps(schemas["LastExit"])
    assert schemas["LastExit"]["properties"]["signal"]["description"] == "Such as ``SIGKILL``."
    assert schemas["Operation"]["description"]


def printed() -> bytes:
    """Return what the command prints."""
    command = [sys.executable, "-m", "instance_manager", "openapi"]
    return subprocess.run(command, capture_output=True, check=True).stdout


async def test_the_served_document_is_the_printed_one(serving: Serving) -> None:
    """Byte for byte, without a manager that runs."""
    async with serving() as served:
        answer = await served.ask("GET", "/openapi.json")

    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == printed()


async def test_the_document_and_the_page_are_readings(serving: Serving) -> None:
    """A browser on this machine may look at them without a token; elsewhere they need one."""
    async with serving() as served:
        for path in ("/openapi.json", "/docs"):
            assert (await served.ask("GET", path, port=served.control_port)).status == 200
            foreign = {"Host": "example.com"}
            refused = await served.ask("GET", path, port=served.control_port, headers=foreign)
            assert refused.status == 403
            assert (await served.ask("GET", path, port=served.health_port)).status == 404


class Links(HTMLParser):
    """Collects what a page links to, names, and loads."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one tag."""
        self.tags.add(tag)
        for name, value in attrs:
            if name == "href" and value:
                self.targets.add(value)
            if name == "id" and value:
                self.names.append(value)


def test_the_page_shows_every_route_and_document_and_loads_nothing() -> None:
    """Each link leads to a part of the page; there is no script, image or font."""
    described, links = document(), Links()
    text = page(described)
    links.feed(text)

    assert len(links.names) == len(set(links.names))
    assert {target[1:] for target in links.targets if target[0] == "#"} <= set(links.names)
    assert {description.name for description in DESCRIPTIONS.values()} <= set(links.names)
    assert {f"schema-{name}" for name in described["components"]["schemas"]} <= set(links.names)
    assert not links.tags & {"script", "img", "link", "iframe", "object", "svg"}


def test_the_page_shows_each_request_over_the_socket_and_over_tls() -> None:
    """As curl sends it: with all that the route wants."""
    text = unescape(page(document()))

    for description_of, item in document()["paths"].items():
        place = re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), description_of)
        for url in (f"'http://localhost{place}'", f"'https://HOST:8000{place}'"):
            assert text.count(f"{url}\n") + text.count(f"{url}</pre>") == len(
                item.keys() - {"parameters"}
            )
    secure = [line for line in text.splitlines() if "https://HOST" in line]
    assert all('--cacert ca.crt -H "Authorization: Bearer $(cat token)"' in one for one in secure)
    changes = [line for line in secure if "-X PUT" in line]
    assert changes
    assert all("""-H 'If-Match: "TAG"'""" in line for line in changes)


async def test_the_page_may_use_its_style_and_nothing_else(serving: Serving) -> None:
    """By its policy, whatever got into it."""
    async with serving() as served:
        answer = await served.ask("GET", "/docs")

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "`a<b`", '"&'])
def test_what_the_document_says_is_text_on_the_page(text: str) -> None:
    """And never markup."""
    described = document()
    described["info"] = {**described["info"], "description": text, "title": text}

    assert "<script" not in page(described)
