from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from instance_manager.settings.documents import DEPTH_LIMIT, NODE_LIMIT, parse_document

NAME = "config.yaml"
# The parser knows no surrogate pairs of JSON, and the writer folds odd line ends.
TEXT = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=9
)
TREES = st.recursive(
    TEXT | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def problems_of(text: str) -> list[str]:
    """Return what is wrong with a document, as people read it."""
    return [str(problem) for problem in parse_document(text, NAME).problems]


def test_scalars_stay_text() -> None:
    """What YAML would convert is kept as it was written."""
    text = "a: on\nb: 0600\nc: 1.10\nd: 1e3\ne: 2001-01-01\nf: 0x1F\ng: yes\nh: 1_000\ni: .inf"

    values = parse_document(text, NAME).values

    assert list(values.values()) == [
        "on", "0600", "1.10", "1e3", "2001-01-01", "0x1F", "yes", "1_000", ".inf",
    ]  # fmt: skip


@pytest.mark.parametrize("written", ["", "~", "null", "Null", "NULL"])
def test_a_plain_null_is_nothing(written: str) -> None:
    """All forms of null of YAML 1.1 mean not set."""
    assert parse_document(f"a: {written}\nb: x", NAME).values == {"a": None, "b": "x"}


@pytest.mark.parametrize("written", ['"null"', "'~'", '""', "nUll", "!!str null"])
def test_a_quoted_null_is_text(written: str) -> None:
    """Quotes, or a tag, make text of what would be null."""
    value = parse_document(f"a: {written}", NAME).values["a"]

    assert isinstance(value, str)


def test_json_is_read_too() -> None:
    """JSON is YAML."""
    assert parse_document('{"a": {"b": [1, "x", true]}}', NAME).values == {
        "a": {"b": ["1", "x", "true"]}
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n...\n", "~"])
def test_an_empty_document_is_an_empty_map(text: str) -> None:
    """A file may hold nothing at all."""
    document = parse_document(text, NAME)

    assert document.values == {}
    assert document.problems == ()


def test_lines_are_known_by_path() -> None:
    """Each value knows its line, the items of lists too."""
    lines = parse_document("a:\n  b: 1\nc:\n  - x\n  - d: 2\n", NAME).lines

    assert (lines["a.b"], lines["c"], lines["c.0"], lines["c.1.d"]) == (2, 4, 4, 5)


def test_a_duplicate_key_is_a_problem() -> None:
    """The first of two is kept, the second is told with its line."""
    document = parse_document("a:\n  b: 1\n  c: 2\n  b: 3\n", NAME)

    assert document.values == {"a": {"b": "1", "c": "2"}}
    assert [str(problem) for problem in document.problems] == [
        "a.b: given twice (config.yaml, line 4)"
    ]


def test_a_merge_key_is_a_problem() -> None:
    """Nothing is merged in silence."""
    text = "a: &a {x: 1}\nb:\n  <<: *a\n"

    assert problems_of(text) == [
        "b: merge keys (<<) are not read: write the keys out (config.yaml, line 3)"
    ]


def test_a_quoted_merge_key_is_a_name() -> None:
    """Only the plain one merges in YAML."""
    assert parse_document('a: {"<<": 1}', NAME).values == {"a": {"<<": "1"}}


def test_aliases_repeat_what_they_name() -> None:
    """Anchors save writing, and may stand on any value."""
    assert parse_document("a: &x [1, 2]\nb: *x\nc: &y z\nd: *y", NAME).values == {
        "a": ["1", "2"],
        "b": ["1", "2"],
        "c": "z",
        "d": "z",
    }


@pytest.mark.parametrize("text", ["a: *b", "a: &a [*a]", "a: &a {b: *a}"])
def test_an_alias_of_nothing_is_a_problem(text: str) -> None:
    """An alias names what was read before, not what is being read."""
    (problem,) = problems_of(text)

    assert "stands for nothing before it (line 1)" in problem
    assert "must stand in quotes" in problem


def test_a_bomb_of_aliases_is_refused() -> None:
    """What aliases repeat is counted as if it were written out."""
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
    )

    (problem,) = problems_of(bomb)

    assert f"more than {NODE_LIMIT} values" in problem


def test_a_wide_document_is_refused() -> None:
    """The limit holds without aliases too."""
    (problem,) = problems_of("a: [" + "x, " * NODE_LIMIT + "x]")

    assert f"more than {NODE_LIMIT} values" in problem


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_at_once(opening: str) -> None:
    """However deep a file goes, reading stops at the limit."""
    (problem,) = problems_of(opening * 100_000)

    # Some versions of the parser have a limit of their own.
    assert "nest" in problem


def test_nesting_to_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    depth = DEPTH_LIMIT - 1

    assert problems_of("a: " + "[" * depth + "]" * depth) == []


def test_tags_are_refused() -> None:
    """No tag makes an object, or anything else."""
    assert problems_of("a: !!set x\nb: !secret y\n") == [
        "a: tags such as 'tag:yaml.org,2002:set' are not read (config.yaml, line 1)",
        "b: tags such as '!secret' are not read (config.yaml, line 2)",
    ]


@pytest.mark.parametrize("text", ["? [a]\n: b", "? {a: b}\n: c", "~: b"])
def test_a_key_must_be_text(text: str) -> None:
    """Lists, maps and null name nothing."""
    (problem,) = problems_of(text)

    assert "a key must be text" in problem


@pytest.mark.parametrize(
    ("text", "what"), [("hello", "'hello'"), ("- a\n- b", "a list"), ("'~'", "'~'")]
)
def test_the_top_must_be_a_map(text: str, what: str) -> None:
    """A file that is YAML but no settings is told what it is."""
    assert problems_of(text) == [f"cannot read config.yaml: must be a map of keys, not {what}"]


def test_several_documents_are_refused() -> None:
    """It would not be clear which one counts."""
    assert problems_of("a: 1\n---\nb: 2\n") == [
        "cannot read config.yaml: it must hold one document, not several"
    ]


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "\ta: b", "a: 'x", "a: \x00", "%", "a: @b", "]"]
)
def test_what_is_not_yaml_is_one_problem(text: str) -> None:
    """The file is named, and the parser's reason."""
    (problem,) = problems_of(text)

    assert problem.startswith("cannot read config.yaml: not YAML: ")


def test_the_place_of_an_error_is_told() -> None:
    """Line and column count from 1."""
    assert "(line 2, column 5)" in problems_of("a: 1\nb: c: d\n")[0]


def test_a_plain_star_says_that_it_needs_quotes() -> None:
    """An address of every host is written with a star, and people forget the quotes."""
    (problem,) = problems_of("health:\n  listen: *:8080\n")

    assert "text that begins with * must stand in quotes" in problem


@settings(max_examples=30)
@given(st.dictionaries(TEXT, TREES, max_size=3))
def test_whatever_json_says_is_read(tree: dict[str, object]) -> None:
    """Names, texts, lists and maps come back as they were."""
    document = parse_document(json.dumps(tree), NAME)

    assert document.problems == ()
    assert document.values == tree


@settings(max_examples=30)
@given(st.dictionaries(TEXT, TREES, max_size=3))
def test_whatever_yaml_writes_is_read(tree: dict[str, object]) -> None:
    """The library's own writer is understood, whatever it quotes."""
    assert parse_document(yaml.safe_dump(tree, allow_unicode=True), NAME).values == tree


@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-?&*!|>'\"%@`#\n ab~<", max_size=60))
def test_any_text_is_a_document_or_has_problems(text: str) -> None:
    """No text makes the reader fail in another way."""
    document = parse_document(text, NAME)

    assert isinstance(document.values, dict)
