"""Pictures that a person looks at, one by one, before they become a sheet."""

from typing import Literal, NamedTuple

from PIL import Image, ImageDraw
from pydantic import BaseModel

from towpath import chain, step


class Size(NamedTuple):
    width: int
    height: int


class Poster(BaseModel):
    title: str
    colour: Literal["red", "green", "blue"]
    size: Size = Size(32, 24)


@step
def plan(titles: list[str]) -> list[Poster]:
    return [Poster(title=title, colour=("red", "green", "blue")[n % 3]) for n, title in enumerate(titles)]


@step(requires_approval=True)
def draw(poster: Poster) -> Image.Image:
    picture = Image.new("RGB", poster.size, poster.colour)
    ImageDraw.Draw(picture).text((2, 2), poster.title[:3], fill="white")
    return picture


@step
def grey(picture: Image.Image) -> Image.Image:
    return picture.convert("L")


@step
def sheet(pictures: list[Image.Image], names: set[str]) -> Image.Image:
    assert names == {"one", "two"}
    whole = Image.new("L", (sum(picture.width for picture in pictures), max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width
    return whole


@step
def names_of(posters: list[Poster]) -> set[str]:
    return {poster.title for poster in posters}


@chain
def posters(titles: list[str]):
    planned = plan(titles)
    return sheet(grey.map(draw.map(planned)), names_of(planned))
