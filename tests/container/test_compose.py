"""The result of ``compose`` in a container whose PID 1 is postgres itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.manager import until

if TYPE_CHECKING:
    from tests.container.conftest import Cluster, Images

HERE = "/var/lib/postgresql/data"
WRITE = f"""
instance-manager check > {HERE}/check.txt
instance-manager compose --format conf > {HERE}/composed.conf
instance-manager compose --format env > {HERE}/composed.sh
instance-manager compose --format json
"""
START = f"""
initdb --pgdata {HERE}/pgdata --username postgres --auth trust --no-sync > /dev/null
echo "include '{HERE}/composed.conf'" >> {HERE}/pgdata/postgresql.conf
. {HERE}/composed.sh
exec postgres -D {HERE}/pgdata -k /tmp
"""


def test_postgres_without_the_manager_uses_what_an_init_container_composed(
    cluster: Cluster, images: Images
) -> None:
    """One container looks and writes, another one, with the same mounts, is plain postgres."""
    data = cluster.volume()
    mount = f"--mount=type=image,src={images.pgvector},dst=/extensions/pgvector"
    composed = json.loads(cluster.tool(data, WRITE, mount))
    operand = cluster.run(
        "--entrypoint=sh",
        "--env=PGHOST=/tmp",
        data=data,
        extensions={"pgvector": images.pgvector},
        command=("-euc", START),
    )
    until(lambda: operand.psql("SELECT 1").code == 0, "postgres answers")

    assert operand.exec("cat", "/proc/1/comm").checked().out.strip() == "postgres"
    assert operand.sql("SHOW extension_control_path") == composed["extension_control_path"]
    assert operand.sql("SHOW dynamic_library_path") == composed["dynamic_library_path"]
    operand.sql("CREATE EXTENSION vector")
    assert operand.sql("SELECT '[1,2]'::vector") == "[1,2]"
    assert operand.stop()[0] == 0
    said = cluster.tool(data, f"tail -n 1 {HERE}/check.txt")
    assert said == "run would make a new cluster and start postgres with 1 volume"
