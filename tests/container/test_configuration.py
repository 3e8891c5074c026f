"""Configurations of a server that can do TLS: a wrong one is refused before the server has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import trustme

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Operand

PYTHON = "/opt/instance-manager/bin/python3"
PUT = """
import asyncio, json, pathlib, sys
from instance_manager import client
async def put():
    async with client.Client.unix(pathlib.Path("/run/instance-manager/control.sock")) as manager:
        document = client.ConfigurationDocument(parameters=json.loads(sys.argv[1]))
        try:
            await manager.put_configuration(document, client.ANY_TAG)
        except client.InvalidRequestError as error:
            return [[each.path, each.message] for each in error.problem.errors]
print(json.dumps(asyncio.run(put())))
"""
KEEP = 'umask 077; printf %s "$2" > "/var/lib/postgresql/data/pgdata/server.$1"'


def put(operand: Operand, parameters: dict[str, str]) -> Any:
    """Send a document with the client of the image; return what is wrong with it."""
    return json.loads(operand.exec(PYTHON, "-c", PUT, json.dumps(parameters)).checked().out)


def test_tls_without_its_files_is_refused_and_with_them_it_works(cluster: Cluster) -> None:
    """The server itself would take it at a reload, and end at its next start."""
    operand = cluster.run("--env", "INSTANCE_MANAGER_CONFIGURATION__SOURCE=api").wait_ready()

    problems = put(operand, {"ssl": "on"})

    assert "server.crt" in problems[0][1]
    assert operand.sql("SHOW ssl") == "off"
    issued = trustme.CA().issue_cert("localhost")
    for kind, pem in (("crt", issued.cert_chain_pems[0]), ("key", issued.private_key_pem)):
        operand.exec("sh", "-c", KEEP, "-", kind, pem.bytes().decode()).checked()
    assert put(operand, {"ssl": "on"}) is None
    assert operand.sql("SHOW ssl") == "on"
    operand.stop()
    assert operand.start().wait_ready().sql("SHOW ssl") == "on"
