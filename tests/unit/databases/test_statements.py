"""Actions as SQL."""

from __future__ import annotations

import pytest

from instance_manager.databases.desired import Action, Create, Drop, Move, Update
from instance_manager.databases.statements import statement_of


@pytest.mark.parametrize(
    ("action", "statement"),
    [
        (
            Create("toy", "1.0", "public"),
            'CREATE EXTENSION "toy" SCHEMA "public" VERSION \'1.0\'',
        ),
        (
            Create("toy", "1.0", None, cascade=True),
            "CREATE EXTENSION \"toy\" VERSION '1.0' CASCADE",
        ),
        (Update("toy", "1.0", "1.1"), "ALTER EXTENSION \"toy\" UPDATE TO '1.1'"),
        (Move("toy", "a", 'b" c'), 'ALTER EXTENSION "toy" SET SCHEMA "b"" c"'),
        (Drop("to'y", "1.0"), 'DROP EXTENSION "to\'y"'),
        (Drop("toy", "1.0", cascade=True), 'DROP EXTENSION "toy" CASCADE'),
        (Update('"', "1", "'; --"), "ALTER EXTENSION \"\"\"\" UPDATE TO '''; --'"),
    ],
)
def test_each_action_is_one_statement_with_names_quoted(action: Action, statement: str) -> None:
    """Nothing in a name or a version ends it."""
    assert statement_of(action).as_string() == statement
