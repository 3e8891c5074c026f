"""The table of routes, as a whole."""

from __future__ import annotations

from aiohttp import web

from instance_manager.api.authentication import Access
from instance_manager.api.routes import CONTROL_ROUTES, HEALTH_ROUTES, add_routes


def test_only_readings_are_open_without_a_token() -> None:
    """Status, events, extensions, what tells nothing of the instance, and nothing that writes."""
    readers = {
        (route.method, route.path)
        for route in HEALTH_ROUTES + CONTROL_ROUTES
        if route.access is Access.READER
    }

    assert readers == {
        ("GET", "/v1/status"),
        ("GET", "/v1/events"),
        ("GET", "/v1/extensions"),
        ("GET", "/v1/extensions/{volume}"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    }


def test_the_health_listener_only_reads() -> None:
    """Nothing there changes anything, and nothing of the control API is there."""
    assert {route.method for route in HEALTH_ROUTES} == {"GET"}
    assert not [route.path for route in HEALTH_ROUTES if route.path.startswith("/v1")]


def test_no_row_stands_there_twice() -> None:
    """A second row of the same method and path would never be reached."""
    rows = [(route.method, route.path) for route in HEALTH_ROUTES + CONTROL_ROUTES]

    assert len(rows) == len(set(rows))


def test_what_is_read_with_get_answers_head_too() -> None:
    """With the same right, and on one resource for each path."""
    router = web.UrlDispatcher()
    access_of = add_routes(router, CONTROL_ROUTES)
    methods = {(route.method, route.resource.canonical) for route in access_of if route.resource}

    assert ("HEAD", "/v1/status") in methods
    assert ("HEAD", "/v1/postgres/stop") not in methods
    assert len(router.resources()) == len({route.path for route in CONTROL_ROUTES})
    assert set(access_of.values()) == {Access.READER, Access.OPERATOR}
