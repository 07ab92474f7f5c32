"""The demo's picture functions: sizes, the same bytes twice, odd modes, and pictures that cannot be used."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from towpath.adapters.demo import pictures

PHOTOS = sorted((Path(pictures.__file__).parent / "photos").glob("*.jpg"))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def plain(width: int, height: int, colour: str = "#336699") -> bytes:
    return encoded(Image.new("RGB", (width, height), colour))


def noise(width: int, height: int) -> bytes:
    pixels = random.Random(7).randbytes(width * height * 3)
    return encoded(Image.frombytes("RGB", (width, height), pixels))


def centre(data: bytes) -> tuple[int, int, int]:
    image = decoded(data).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


def near(found: tuple[int, int, int], wanted: tuple[int, int, int], by: int = 6) -> bool:
    return all(abs(one - other) <= by for one, other in zip(found, wanted, strict=True))


def sheet_of(count: int, columns: int = 4, title: str = "Sheet") -> bytes:
    thumb = plain(40, 30)
    return pictures.contact_sheet_jpeg([(f"{n}.jpg", thumb, []) for n in range(count)], columns, title)


# The photographs that ship


def test_shipped_photographs_are_small_clean_and_accounted_for() -> None:
    licences = (PHOTOS[0].parent / "LICENSES.md").read_text(encoding="utf-8")
    assert 6 <= len(PHOTOS) <= 8
    for photo in PHOTOS:
        image = decoded(photo.read_bytes())
        assert photo.stat().st_size <= 60_000
        assert max(image.size) <= 640
        assert not image.getexif()
        assert not {"exif", "icc_profile", "comment", "xmp"} & image.info.keys()
        assert f"`{photo.name}`" in licences


# Thumbnails


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        ((600, 400), 256, (256, 171)),
        ((400, 600), 256, (256, 384)),
        ((100, 50), 256, (100, 50)),
        ((100, 4000), 256, (13, 512)),
        ((4000, 1), 64, (64, 1)),
        ((1, 1), 1, (1, 1)),
    ],
)
def test_thumbnail_keeps_proportions_and_never_enlarges(
    size: tuple[int, int], width: int, expected: tuple[int, int]
) -> None:
    thumb = decoded(pictures.thumbnail_jpeg(plain(*size), width))
    assert (thumb.format, thumb.mode, thumb.size) == ("JPEG", "RGB", expected)


@pytest.mark.parametrize("width", [0, -1, 4097])
def test_thumbnail_refuses_a_senseless_width(width: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 4096 pixels wide, not {width}"):
        pictures.thumbnail_jpeg(plain(10, 10), width)


def test_thumbnail_of_a_large_jpeg_is_decoded_at_a_fraction_and_looks_the_same() -> None:
    photo = Image.effect_mandelbrot((3000, 2000), (-3, -2.5, 2, 2.5), 50).convert("RGB")
    from_jpeg = decoded(pictures.thumbnail_jpeg(encoded(photo, "JPEG", quality=95), 100))
    from_png = decoded(pictures.thumbnail_jpeg(encoded(photo), 100))
    assert from_jpeg.size == from_png.size == (100, 67)
    apart = [abs(a - b) for a, b in zip(from_jpeg.tobytes(), from_png.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 4


def test_thumbnail_drops_metadata() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    source = encoded(Image.new("RGB", (80, 60)), "JPEG", exif=exif, comment=b"secret")
    thumb = pictures.thumbnail_jpeg(source, 40)
    assert b"home" not in thumb
    assert b"secret" not in thumb
    assert not decoded(thumb).getexif()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_thumbnail_is_upright(orientation: int) -> None:
    upright = Image.new("RGB", (60, 40), "white")
    upright.paste("red", (0, 0, 30, 20))
    stored_from = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if stored_from is None else upright.transpose(stored_from)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("JPEG", "PNG", "TIFF"):
        thumb = decoded(pictures.thumbnail_jpeg(encoded(stored, kind, exif=exif), 60))
        assert thumb.size == (60, 40), kind
        assert near(thumb.getpixel((10, 8)), (254, 0, 0), 12), kind  # type: ignore[arg-type]
        assert near(thumb.getpixel((50, 32)), (255, 255, 255), 12), kind  # type: ignore[arg-type]


# Modes


def half(mode: str) -> Image.Image:
    return Image.new("L", (20, 20), 128).convert(mode)


ODD: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "grey": (lambda: encoded(half("L")), (128, 128, 128)),
    "one bit": (lambda: encoded(Image.new("1", (20, 20), 1)), (255, 255, 255)),
    "16 bit PNG": (lambda: encoded(Image.new("I;16", (20, 20), 32896)), (128, 128, 128)),
    "16 bit TIFF": (lambda: encoded(Image.new("I;16", (20, 20), 32896), "TIFF"), (128, 128, 128)),
    "32 bit TIFF": (lambda: encoded(Image.new("I", (20, 20), 32896), "TIFF"), (128, 128, 128)),
    "float 0 to 1": (lambda: encoded(Image.new("F", (20, 20), 0.5), "TIFF"), (127, 127, 127)),
    "float 0 to 255": (lambda: encoded(Image.new("F", (20, 20), 128.0), "TIFF"), (128, 128, 128)),
    "palette": (lambda: encoded(Image.new("RGB", (20, 20), "#cc3300").quantize(4)), (204, 51, 0)),
    "CMYK": (lambda: encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "transparent": (lambda: encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0))), (255, 255, 255)),
    "half transparent": (lambda: encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 128))), (255, 127, 127)),
    "grey with alpha": (lambda: encoded(Image.new("LA", (20, 20), (0, 0))), (255, 255, 255)),
    "transparent colour": (
        lambda: encoded(Image.new("RGB", (20, 20), (1, 2, 3)), transparency=(1, 2, 3)),
        (255, 255, 255),
    ),
    "animated GIF": (
        lambda: encoded(
            Image.new("RGB", (20, 20), "blue"),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (20, 20), "red")],
        ),
        (0, 0, 255),
    ),
    "WebP": (lambda: encoded(half("RGB"), "WEBP"), (128, 128, 128)),
    "BMP": (lambda: encoded(half("RGB"), "BMP"), (128, 128, 128)),
}


@pytest.mark.parametrize("name", ODD)
def test_every_mode_becomes_rgb(name: str) -> None:
    make, wanted = ODD[name]
    data = make()
    assert near(centre(pictures.thumbnail_jpeg(data, 20)), wanted)
    assert sum(pictures.histogram(data)["g"]) == 400
    assert len(pictures.palette(data)) == 1


def test_a_colour_profile_is_applied_and_a_broken_one_ignored() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("RGB", (20, 20), (200, 100, 50))
    assert near(centre(pictures.thumbnail_jpeg(encoded(image, icc_profile=srgb), 20)), (200, 100, 50))
    assert near(centre(pictures.thumbnail_jpeg(encoded(image, icc_profile=b"junk"), 20)), (200, 100, 50))


# Palettes and histograms


def test_palette_is_sorted_by_share_and_exact_for_flat_colours() -> None:
    image = Image.new("RGB", (100, 100), "#ff0000")
    image.paste("#0000ff", (0, 0, 100, 25))
    assert pictures.palette(encoded(image)) == [
        {"hex": "#ff0000", "share": 0.75},
        {"hex": "#0000ff", "share": 0.25},
    ]


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_palette_of_a_photograph(photo: Path) -> None:
    found = pictures.palette(photo.read_bytes(), 5)
    shares = [colour["share"] for colour in found]
    assert 1 <= len(found) <= 5
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=0.001)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("colours", [0, 257])
def test_palette_refuses_a_senseless_number(colours: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 256 colours, not {colours}"):
        pictures.palette(plain(5, 5), colours)


def test_palette_takes_many_colours() -> None:
    assert len(pictures.palette(noise(64, 64), 256)) > 100


def test_strip_shows_colours_in_order_and_the_rarest_too() -> None:
    strip = decoded(
        pictures.palette_strip_png([{"hex": "#ff0000", "share": 0.999}, {"hex": "#00ff00", "share": 0.001}])
    )
    assert (strip.format, strip.size) == ("PNG", (480, 48))
    assert strip.getpixel((0, 24)) == (255, 0, 0)
    assert strip.getpixel((479, 24)) == (0, 255, 0)


@pytest.mark.parametrize("colours", [[], [{"hex": "reddish", "share": 1.0}]])
def test_strip_refuses_what_it_cannot_draw(colours: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"at least one colour|unknown color"):
        pictures.palette_strip_png(colours)


def test_histogram_counts_every_pixel_of_every_channel() -> None:
    found = pictures.histogram(plain(10, 20, "#0080ff"))
    assert found["r"] == [200] + [0] * 15
    assert found["g"] == [0] * 8 + [200] + [0] * 7
    assert found["b"] == [0] * 15 + [200]
    assert pictures.histogram(plain(3, 3), bins=1) == {"r": [9], "g": [9], "b": [9]}


@pytest.mark.parametrize("bins", [0, -16, 3, 512])
def test_histogram_refuses_uneven_bins(bins: int) -> None:
    with pytest.raises(ValueError, match=f"into {bins} equal bins"):
        pictures.histogram(plain(5, 5), bins)


# Contact sheets


def test_sheet_grows_by_rows_and_has_no_empty_columns() -> None:
    one, four, five = (decoded(sheet_of(count)).size for count in (1, 4, 5))
    assert one[0] < four[0] == five[0]
    assert one[1] == four[1] < five[1]


def test_sheet_centres_thumbnails_and_draws_palettes() -> None:
    layout = pictures.Layout.fitting(2, 2)
    thumbs = [
        ("a.jpg", plain(100, 50, "#ff0000"), [{"hex": "#00ff00", "share": 1.0}]),
        ("b.jpg", plain(9, 9), []),
    ]
    sheet = decoded(pictures.contact_sheet_jpeg(thumbs, 2, "Two"))
    assert sheet.size == layout.size
    left, top = layout.corner(0)
    middle = left + layout.side // 2
    assert near(sheet.getpixel((middle, top + layout.side // 2)), (254, 0, 0))  # type: ignore[arg-type]
    assert near(sheet.getpixel((middle, top + 20)), (30, 32, 36))  # type: ignore[arg-type]
    strip = top + (layout.strip_offset + layout.height) // 2
    assert near(sheet.getpixel((middle, strip)), (0, 255, 0))  # type: ignore[arg-type]
    assert near(sheet.getpixel((2, 2)), (20, 21, 24))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["", "a\nb.jpg", "x" * 5000 + ".jpg", "naïve Größe.jpg", "運河.jpg", "\udcff.jpg", "\x00", "\u202e.jpg"],
)
def test_sheet_takes_any_name_and_title(name: str) -> None:
    sheet = decoded(pictures.contact_sheet_jpeg([(name, plain(9, 9), [])], 3, name))
    assert sheet.size == pictures.Layout.fitting(1, 3).size


def test_sheet_names_the_picture_that_is_broken() -> None:
    with pytest.raises(ValueError, match=r"^bad\.jpg: not a picture"):
        pictures.contact_sheet_jpeg([("good.jpg", plain(9, 9), []), ("bad.jpg", b"text", [])], 2, "Mixed")


def test_sheet_of_many_pictures_has_smaller_cells_and_then_a_limit() -> None:
    assert pictures.Layout.fitting(8, 4).side == 256
    many = pictures.Layout.fitting(3000, 40)
    assert many.side < 256
    assert max(many.size) <= 65_000
    assert many.size[0] * many.size[1] <= 80_000_000
    with pytest.raises(ValueError, match="3000 pictures in 1 columns do not fit"):
        pictures.Layout.fitting(3000, 1)


@pytest.mark.parametrize(("count", "columns", "says"), [(0, 3, "one picture"), (3, 0, "one column, not 0")])
def test_sheet_refuses_nothing_at_all(count: int, columns: int, says: str) -> None:
    with pytest.raises(ValueError, match=f"at least {says}"):
        sheet_of(count, columns)


# Pictures that cannot be used


def cut(kind: str) -> bytes:
    whole = encoded(decoded(noise(200, 200)), kind)
    return whole[: len(whole) // 2]


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "text": (lambda: b"not a picture\n" * 50, "not a picture in a format"),
    "zeros": (lambda: bytes(5000), "not a picture in a format"),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a format"),
    "cut JPEG": (lambda: cut("JPEG"), "cannot be decoded: .*truncated"),
    "cut PNG": (lambda: cut("PNG"), "cannot be decoded: .*truncated"),
    "cut GIF": (lambda: cut("GIF"), "cannot be decoded: .*"),
    "cut WebP": (lambda: cut("WEBP"), "cannot be|not a picture"),
    "cut TIFF": (lambda: cut("TIFF"), "cannot be|not a picture"),
    "JPEG header alone": (lambda: plain_jpeg()[:20], "cannot be|not a picture"),
    "damaged PNG": (lambda: plain(50, 50).replace(b"IDAT", b"IDXX"), "cannot be|not a picture"),
    "not a number": (lambda: encoded(Image.new("F", (5, 5), float("nan")), "TIFF"), "not numbers"),
}


def plain_jpeg() -> bytes:
    return encoded(Image.new("RGB", (50, 50)), "JPEG")


FUNCTIONS: dict[str, Callable[[bytes], object]] = {
    "thumbnail": lambda data: pictures.thumbnail_jpeg(data, 64),
    "palette": pictures.palette,
    "histogram": pictures.histogram,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_refused_with_its_problem(name: str, function: str) -> None:
    make, says = BROKEN[name]
    with pytest.raises(ValueError, match=says):
        FUNCTIONS[function](make())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("limit", [9_999, 1_000])
def test_a_huge_picture_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, limit: int, function: str
) -> None:
    data = plain(100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"the picture is too large: .*pixels"):
        FUNCTIONS[function](data)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_anywhere_gives_a_picture_or_a_value_error(kind: str) -> None:
    chance = random.Random(11)
    whole = encoded(decoded(PHOTOS[0].read_bytes()).resize((48, 48)), kind)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        with contextlib.suppress(ValueError):  # nothing else may come out
            assert decoded(pictures.thumbnail_jpeg(bytes(damaged), 32)).width <= 32


# The same bytes


def test_the_same_input_gives_the_same_bytes() -> None:
    def everything() -> str:
        digest = hashlib.sha256()
        thumbs = []
        for photo in PHOTOS:
            data = photo.read_bytes()
            colours = pictures.palette(data)
            thumb = pictures.thumbnail_jpeg(data, 200)
            thumbs.append((photo.name, thumb, colours))
            digest.update(thumb + pictures.palette_strip_png(colours))
            digest.update(json.dumps(pictures.histogram(data)).encode())
        digest.update(pictures.contact_sheet_jpeg(thumbs, 4, "Twice"))
        return digest.hexdigest()

    assert everything() == everything()
