"""The API describes itself: as an OpenAPI document, and as a page."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema_rs import validator_for

from instance_manager.api.descriptions import DESCRIPTIONS
from instance_manager.api.docs_page import page
from instance_manager.api.openapi import document
from instance_manager.api.problems import STATUSES
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES
from instance_manager.client import Client

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
