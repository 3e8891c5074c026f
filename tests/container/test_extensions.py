"""From an image mounted under /extensions to a query that uses it, or to the reason why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Images, Operand

NEAREST = "SELECT id FROM items ORDER BY embedding <-> '[3,1,2]' LIMIT 2"
POSTMASTER_ENVIRONMENT = """
import json, pathlib
pid = pathlib.Path("/var/lib/postgresql/data/pgdata/postmaster.pid").read_text().split()[0]
entries = pathlib.Path(f"/proc/{pid}/environ").read_text().split("\\0")
print(json.dumps(dict(entry.split("=", 1) for entry in entries if entry)))
"""


def postmaster_environment(operand: Operand) -> Any:
    """Return the environment that postgres was started with."""
    return json.loads(operand.exec("python3", "-I", "-c", POSTMASTER_ENVIRONMENT).checked().out)


def test_an_image_volume_gives_the_database_its_extension(
    cluster: Cluster, images: Images
) -> None:
    """CREATE EXTENSION, an index and a query work from a read-only image mount."""
    operand = cluster.run(extensions={"pgvector": images.pgvector}).wait_ready()

    operand.sql("CREATE EXTENSION vector")
    operand.sql("CREATE TABLE items (id int PRIMARY KEY, embedding vector(3))")
    operand.sql("INSERT INTO items VALUES (1, '[1,2,3]'), (2, '[3,1,2]'), (3, '[3,1,1]')")
    operand.sql("CREATE INDEX items_embedding ON items USING hnsw (embedding vector_l2_ops)")

    assert operand.sql(NEAREST).split() == ["2", "3"]
    assert "items_embedding" in operand.sql(f"SET enable_seqscan = off; EXPLAIN {NEAREST}")


def test_the_api_shows_exactly_the_composed_strings(cluster: Cluster, images: Images) -> None:
    """What is composed from one volume is what the contract says, letter by letter."""
    operand = cluster.run(extensions={"pgvector": images.pgvector}).wait_ready()

    report = operand.get_json("/v1/extensions")

    composed = report["composed"]
    assert composed["extension_control_path"] == "$system:/extensions/pgvector/share"
    assert composed["dynamic_library_path"] == "$libdir:/extensions/pgvector/lib"
    assert composed["shared_preload_libraries"] == ""
    assert composed["ld_library_path"] == ""
    assert composed["env"] == {}
    assert [(volume["name"], volume["state"]) for volume in report["volumes"]] == [
        ("pgvector", "ready")
    ]
    assert report["pending_action"] == "none"


def test_the_server_runs_with_what_the_api_shows(cluster: Cluster, images: Images) -> None:
    """The parameters and the environment of the postmaster are the composed ones."""
    operand = cluster.run(extensions={"pgvector": images.pgvector}).wait_ready()

    report = operand.get_json("/v1/extensions")
    environment = postmaster_environment(operand)

    parameters = ("extension_control_path", "dynamic_library_path", "shared_preload_libraries")
    shown = {name: operand.sql(f"SHOW {name}") for name in parameters}
    assert shown == {name: report["composed"][name] for name in parameters}
    assert shown == {name: report["running"][name] for name in parameters}
    assert environment.get("LD_LIBRARY_PATH", "") == report["composed"]["ld_library_path"]
    assert environment["PATH"] == report["composed"]["path"]


def test_a_server_without_volumes_starts(cluster: Cluster) -> None:
    """No volume is no error: only the server's own directories are searched."""
    operand = cluster.run().wait_ready()

    report = operand.get_json("/v1/extensions")

    assert report["volumes"] == []
    assert report["composed"]["extension_control_path"] == "$system"
    assert report["composed"]["dynamic_library_path"] == "$libdir"
    assert operand.sql("SELECT 1") == "1"


def test_a_volume_of_another_machine_is_quarantined_and_the_server_runs(
    cluster: Cluster, images: Images
) -> None:
    """The library that can't be loaded is named in API, status and log; the rest goes on."""
    extensions = {"foreign": images.foreign, "pgvector": images.pgvector}
    operand = cluster.run(extensions=extensions).wait_ready()

    report = operand.get_json("/v1/extensions")
    status = operand.get_json("/v1/status")

    states = {volume["name"]: volume["state"] for volume in report["volumes"]}
    assert states == {"foreign": "quarantined", "pgvector": "ready"}
    assert "foreign" not in report["composed"]["extension_control_path"]
    assert "foreign" not in report["composed"]["dynamic_library_path"]
    findings = {
        finding["code"]: finding
        for volume in report["volumes"]
        for finding in volume["findings"]
        if volume["name"] == "foreign"
    }
    assert findings["EXT031"]["severity"] == "error"
    assert findings["EXT031"]["subject"] == "lib/vector.so"
    assert (status["phase"], status["extensions"]["quarantined"]) == ("running", 1)
    assert [event for event in operand.events() if "EXT031" in json.dumps(event)]
    assert operand.sql("CREATE EXTENSION vector; SELECT '[1,2]'::vector") == "[1,2]"


def test_an_extension_in_quarantine_is_not_available(cluster: Cluster, images: Images) -> None:
    """The server knows nothing of a quarantined volume, so SQL fails with a clean message."""
    operand = cluster.run(extensions={"pgvector": images.foreign}).wait_ready()

    result = operand.psql("CREATE EXTENSION vector")

    assert result.code != 0
    assert 'extension "vector" is not available' in result.error


def test_check_says_why_beside_a_running_server(cluster: Cluster, images: Images) -> None:
    """``check`` exits with 3 and names the finding, and the running manager is no hindrance."""
    operand = cluster.run(extensions={"pgvector": images.foreign}).wait_ready()

    as_json = operand.exec("instance-manager", "check", "--output", "json")
    as_text = operand.exec("instance-manager", "check", "--output", "text")

    assert (as_json.code, as_text.code) == (3, 3)
    [volume] = json.loads(as_json.out)["volumes"]
    assert "EXT031" in {finding["code"] for finding in volume["findings"]}
    assert "EXT031" in as_text.out
    assert "running" not in json.loads(as_json.out)


def test_check_serves_as_an_init_container(cluster: Cluster, images: Images) -> None:
    """Without being PID 1's supervisor it proves a good set of volumes, and exits with 0."""
    operand = cluster.run(
        '--entrypoint=["instance-manager", "check", "--output", "json"]',
        extensions={"pgvector": images.pgvector},
    )

    code = operand.wait(60)

    assert code == 0
    report = json.loads(operand.podman("logs", operand.name).checked().out)
    assert report["composed"]["extension_control_path"] == "$system:/extensions/pgvector/share"


def test_status_says_what_is_quarantined(cluster: Cluster, images: Images) -> None:
    """``status`` is for people: it names the phase and counts the quarantined volume."""
    operand = cluster.run(extensions={"pgvector": images.foreign}).wait_ready()

    as_text = operand.exec("instance-manager", "status")
    as_json = operand.exec("instance-manager", "status", "--output", "json")

    assert (as_text.code, as_json.code) == (0, 0)
    assert "running" in as_text.out
    assert "quarantined" in as_text.out
    assert json.loads(as_json.out)["extensions"]["quarantined"] == 1
