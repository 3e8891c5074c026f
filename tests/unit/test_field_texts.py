"""What the source says of fields and values."""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

from pydantic import BaseModel, Field, create_model

from instance_manager.field_texts import (
    enumerations_below,
    field_texts,
    models_below,
    value_texts,
)

ItemT = TypeVar("ItemT")


class Colour(StrEnum):
    """Some colours."""

    RED = "red"
    """Like a rose,
    in summer."""
    BLUE = "blue"


class Base(BaseModel):
    """What others have."""

    name: str
    """Its name."""
    colour: Colour = Colour.RED


class Box(Base, Generic[ItemT]):
    """A box of something."""

    name: str
    """The box's name."""
    schema_name: str = Field(alias="schema")
    """Where it is."""
    items: tuple[ItemT, ...] | None = None
    """What is in it."""
    size: int = 0


class Shelf(BaseModel):
    """A shelf, with shelves."""

    boxes: dict[str, Box[Base]] = {}
    inner: Shelf | None = None


def test_a_field_has_the_text_below_it_by_its_name_in_json() -> None:
    """Its own class's before that of a base; a field without one has none."""
    assert field_texts(Box) == {
        "name": "The box's name.",
        "schema": "Where it is.",
        "items": "What is in it.",
    }
    assert field_texts(Box[Base]) == field_texts(Box)


def test_a_value_has_the_text_below_it() -> None:
    """In one line, whatever the source's lines are."""
    assert value_texts(Colour) == {"red": "Like a rose, in summer."}


def test_a_model_without_source_has_no_texts_and_is_no_error() -> None:
    """Such as one that was made at run time."""
    assert field_texts(create_model("Made", name=(str, ""))) == {}


def test_models_and_enumerations_are_found_however_deep_and_once() -> None:
    """In lists, maps, alternatives and in themselves."""
    assert set(models_below(Shelf)) == {Shelf, Box[Base], Base}
    assert enumerations_below(Shelf) == (Colour,)
