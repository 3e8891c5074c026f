from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.extensions.metadata import Metadata, parse

# A short alphabet: to draw from all of Unicode, hypothesis reads all of it first.
TEXT = "ab./$\n\0ä\ud800"


def test_every_field_is_read() -> None:
    """The fields of the settings, and those that only a builder knows."""
    document = {
        "extension_control_path": ["share"],
        "dynamic_library_path": ["lib"],
        "ld_library_path": ["system"],
        "bin_path": [],
        "env": [{"name": "PROJ_DATA", "value": "${image_root}/share/proj"}],
        "shared_preload_libraries": ["$libdir/pg_cron", "other.so"],
        "postgresql_parameters": {"cron.database_name": "app", "cron.n": 3, "cron.log": False},
        "requires": ["postgis"],
        "preload_after": {"pg_cron": ["$libdir/other.so"]},
        "name": "pg_cron",
        "source": "x" * 201,
        "version": {"unknown": [1, 2, {"deep": None}]},
        "revision": "a\nb",
    }

    metadata, problems = parse(json.dumps(document).encode())

    assert problems == ()
    assert metadata == Metadata(
        extension_control_path=("share",),
        dynamic_library_path=("lib",),
        ld_library_path=("system",),
        bin_path=(),
        env=(("PROJ_DATA", "${image_root}/share/proj"),),
        shared_preload_libraries=("pg_cron", "other"),
        postgresql_parameters=(
            ("cron.database_name", "app"),
            ("cron.n", "3"),
            ("cron.log", "off"),
        ),
        requires=("postgis",),
        preload_after=(("pg_cron", ("other",)),),
        provenance=(("name", "pg_cron"),),
    )


def test_nothing_and_null_mean_not_given() -> None:
    """An empty object and nulls leave the defaults."""
    assert parse(b"{}") == parse(b'{"bin_path": null, "env": null}') == (Metadata(), ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is not JSON: line 1"),
        (b"{\n\n'a'}", "it is not JSON: line 3"),
        (b"\xff\xfe\xff", "it is not JSON: UnicodeDecodeError"),
        (b"[" * 100_000, "it is not JSON: RecursionError"),
        (b"9" * 10_000, "it is not JSON: ValueError"),
        (b"[]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
    ],
)
def test_what_is_no_json_object_is_a_problem(content: bytes, problem: str) -> None:
    """The reason never repeats the content, which may be a link to anything."""
    assert parse(content) == (Metadata(), (problem,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bin_path", "bin"),
        ("bin_path", [1]),
        ("bin_path", ["a\nb"]),
        ("bin_path", ["\ud800"]),
        ("bin_path", ["a"] * 65),
        ("bin_path", ["a" * 5000]),
        ("env", {"A": "b"}),
        ("env", ["A=b"]),
        ("env", [{"name": "A"}]),
        ("env", [{"name": "A", "value": 1}]),
        ("shared_preload_libraries", ["/tmp/evil.so"]),
        ("shared_preload_libraries", ["../evil"]),
        ("shared_preload_libraries", ["$libdir/plugins/x"]),
        ("shared_preload_libraries", ["a,b"]),
        ("shared_preload_libraries", [""]),
        ("requires", "postgis"),
        ("requires", [None]),
        ("requires", [""]),
        ("requires", ["a/b"]),
        ("requires", ["a" * 64]),
        ("preload_after", ["a"]),
        ("preload_after", {"a": "b"}),
        ("preload_after", {"a/b": ["c"]}),
        ("preload_after", {"a": ["/b"]}),
        ("postgresql_parameters", ["a.b"]),
        ("postgresql_parameters", {"a.b": [1]}),
        ("postgresql_parameters", {"a.b": "x\ny"}),
        ("postgresql_parameters", {f"a.b{n}": 1 for n in range(65)}),
    ],
)
def test_a_field_of_the_wrong_form_is_a_problem(field: str, value: object) -> None:
    """It counts as absent, and the problem names it; the other fields are still read."""
    content = json.dumps({field: value, "ld_library_path": ["system"]}).encode()

    metadata, problems = parse(content)

    assert metadata == Metadata(ld_library_path=("system",))
    assert [problem.partition(":")[0] for problem in problems] == [field]


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(Metadata._fields),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(TEXT, max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(TEXT, max_size=3), inner)
            ),
            max_leaves=6,
        ),
    )
)
def test_no_document_makes_the_parser_fail(document: dict[str, object]) -> None:
    """Whatever JSON says, the answer is metadata and problems."""
    metadata, problems = parse(json.dumps(document).encode())

    assert isinstance(metadata, Metadata)
    assert len(problems) <= len(document)
