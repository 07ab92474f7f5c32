"""What the demo does to photographs: thumbnails, palettes, histograms and a contact sheet.

Pure functions from bytes to bytes or plain data, on Pillow (the ``demo`` extra). The same input gives the
same bytes. A picture that cannot be used raises `ValueError` with a sentence that says why.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, cast

from PIL import Image, ImageCms, ImageColor, ImageDraw, ImageFont, UnidentifiedImageError

MAX_THUMBNAIL_WIDTH = 4096
MAX_SHEET_SIDE = 65_000  # JPEG itself ends at 65,535
MAX_SHEET_PIXELS = 80_000_000
PALETTE_SIDE = 160
STRIP_SIZE = (480, 48)
LEAST_SHARE = 0.03  # a narrower colour is not visible in a strip

BACKGROUND = "#141518"
MAT = "#1e2024"
CAPTION = "#c3c7cd"
TITLE = "#f3f4f6"
MUTED = "#868c95"
LINE = "#3a3e45"

# Decoders that only read pixels. Others (EPS) start a program.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
ORIENTATION_TAG = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Colour(TypedDict):
    """One colour of a palette and how much of the picture it covers (0 to 1)."""

    hex: str
    share: float


class Histogram(TypedDict):
    """How many pixels fall into each of the equal bins, from dark to bright, for each channel."""

    r: list[int]
    g: list[int]
    b: list[int]


def thumbnail_jpeg(data: bytes, width: int) -> bytes:
    """Scale a picture down to `width` pixels (and at most twice as many rows) as a JPEG without metadata.

    A smaller picture keeps its size; nothing is enlarged or cropped.
    """
    if not 1 <= width <= MAX_THUMBNAIL_WIDTH:
        raise ValueError(f"a thumbnail is 1 to {MAX_THUMBNAIL_WIDTH} pixels wide, not {width}")
    return _jpeg(_fitted(_picture(data, at_least=4 * width), width, 2 * width), quality=85, subsampling="4:2:0")


def palette(data: bytes, colours: int = 6) -> list[Colour]:
    """Name the main colours of a picture, the largest share first; fewer where it has fewer."""
    if not 1 <= colours <= 256:
        raise ValueError(f"a palette has 1 to 256 colours, not {colours}")
    small = _fitted(_picture(data, at_least=2 * PALETTE_SIDE), PALETTE_SIDE, PALETTE_SIDE)
    reduced = small.quantize(
        colours, method=Image.Quantize.MEDIANCUT, kmeans=colours, dither=Image.Dither.NONE
    ).convert("RGB")
    pixels = reduced.tobytes()
    counts = Counter(zip(pixels[0::3], pixels[1::3], pixels[2::3], strict=True))
    found = [
        Colour(hex=f"#{red:02x}{green:02x}{blue:02x}", share=round(count / counts.total(), 4))
        for (red, green, blue), count in counts.items()
    ]
    return sorted(found, key=lambda colour: (-colour["share"], colour["hex"]))


def palette_strip_png(colours: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw a palette as one strip, each colour as wide as its share."""
    if not colours:
        raise ValueError("a palette strip needs at least one colour")
    strip = Image.new("RGB", STRIP_SIZE)
    _draw_strip(ImageDraw.Draw(strip), (0, 0, *STRIP_SIZE), colours)
    return _encoded(strip, "PNG")


def histogram(data: bytes, bins: int = 16) -> Histogram:
    """Count the pixels of a whole picture into equal bins, for red, green and blue."""
    if bins < 1 or 256 % bins:
        raise ValueError(f"256 levels do not divide into {bins} equal bins: take a power of two up to 256")
    counts = _picture(data).histogram()
    step = 256 // bins
    summed = [sum(counts[start : start + step]) for start in range(0, 768, step)]
    return Histogram(r=summed[:bins], g=summed[bins : 2 * bins], b=summed[2 * bins :])


def contact_sheet_jpeg(
    thumbs: Sequence[tuple[str, bytes, Sequence[Mapping[str, Any]]]], columns: int, title: str
) -> bytes:
    """Lay out pictures (name, bytes, palette) in even cells under a title, as a JPEG."""
    layout = Layout.fitting(len(thumbs), columns)
    sheet = Image.new("RGB", layout.size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    _draw_heading(draw, layout, title)
    font = ImageFont.load_default(layout.caption)
    for index, (name, data, colours) in enumerate(thumbs):
        left, top = layout.corner(index)
        try:
            photo = _fitted(_picture(data, at_least=2 * layout.side), layout.side, layout.side)
            draw.rectangle((left, top, left + layout.side - 1, top + layout.side - 1), fill=MAT)
            sheet.paste(photo, (left + (layout.side - photo.width) // 2, top + (layout.side - photo.height) // 2))
            strip = (left, top + layout.strip_offset, left + layout.side, top + layout.height)
            if colours:
                draw.rectangle((strip[0] - 1, strip[1] - 1, strip[2], strip[3]), outline=LINE)
                _draw_strip(draw, strip, colours)
        except ValueError as error:
            raise ValueError(f"{_printable(name)}: {error}") from error
        text = _shortened(_printable(name), layout.side, font)
        middle = (left + layout.side / 2, top + layout.caption_offset)
        draw.text(middle, text, font=font, fill=CAPTION, anchor="mm")
    return _jpeg(sheet, quality=90, subsampling="4:4:4")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is on a contact sheet; all lengths in pixels, all derived from the side of a cell."""

    count: int
    columns: int
    side: int

    @classmethod
    def fitting(cls, count: int, columns: int) -> Layout:
        """Take the largest cells with which the sheet stays within the limits of a JPEG and of memory."""
        if count < 1:
            raise ValueError("a contact sheet needs at least one picture")
        if columns < 1:
            raise ValueError(f"a contact sheet has at least one column, not {columns}")
        for side in (256, 192, 144, 96, 64):
            layout = cls(count, min(columns, count), side)
            width, height = layout.size
            if max(width, height) <= MAX_SHEET_SIDE and width * height <= MAX_SHEET_PIXELS:
                return layout
        raise ValueError(f"{count} pictures in {columns} columns do not fit on one contact sheet")

    @property
    def gap(self) -> int:
        """The space between cells; the margin around them is twice as wide."""
        return self.side // 9

    @property
    def caption(self) -> int:
        """The size of the type below a picture."""
        return max(9, self.side // 17)

    @property
    def caption_offset(self) -> int:
        """From the top of a cell to the middle of its caption."""
        return self.side + self.caption + self.caption // 8

    @property
    def strip_offset(self) -> int:
        """From the top of a cell to its palette."""
        return self.side + 2 * self.caption + self.caption // 4

    @property
    def height(self) -> int:
        """A whole cell: picture, caption and palette."""
        return self.strip_offset + max(4, self.side // 26)

    @property
    def title(self) -> int:
        """The size of the title's type."""
        return max(15, self.side // 9)

    @property
    def heading(self) -> int:
        """From the top of the sheet to the first row."""
        return 2 * self.gap + 3 * self.title

    @property
    def size(self) -> tuple[int, int]:
        """The width and height of the sheet."""
        rows = math.ceil(self.count / self.columns)
        width = self.columns * (self.side + self.gap) + 3 * self.gap
        return width, self.heading + rows * self.height + (rows - 1) * (self.gap + self.gap // 3) + 2 * self.gap

    def corner(self, index: int) -> tuple[int, int]:
        """The top left corner of a cell."""
        row, column = divmod(index, self.columns)
        left = 2 * self.gap + column * (self.side + self.gap)
        return left, self.heading + row * (self.height + self.gap + self.gap // 3)


def _opened(data: bytes) -> Image.Image:
    """Read the header: which format it is, and that it is not too large to decode."""
    if not data:
        raise ValueError("the file is empty")
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"the picture is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError("not a picture in a format that can be read here") from error
    except Exception as error:  # as below
        raise ValueError(f"the picture cannot be opened: {error}") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ValueError(f"the picture is too large: {image.width} × {image.height} pixels, at most {limit} are read")
    return image


def _picture(data: bytes, at_least: int | None = None) -> Image.Image:
    """Decode the first frame, upright and in sRGB.

    With `at_least`, a large JPEG may be decoded at a fraction of its size, its sides no smaller than that.
    """
    with _opened(data) as image:
        try:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            turn = TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
            upright = _srgb(image)
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything when a file is damaged
            raise ValueError(f"the picture cannot be decoded: {error}") from error
        return upright if turn is None else upright.transpose(turn)


def _srgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8 bit sRGB; transparent pixels become white."""
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "CMYK"}:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None  # a broken profile: the numbers alone still make a picture
        if converted is not None:
            return converted
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture of 16 or 32 bits, or of floats, to 8 bits."""
    wide = image.convert("F")
    low, high = cast("tuple[float, float]", wide.getextrema())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("the picture holds values that are not numbers")
    ranges = [1.0, 255.0, 65535.0] if image.mode == "F" else [65535.0]
    peak = next((top for top in ranges if high <= top), high)
    return wide.point(lambda level: level * (255.0 / peak) + 0.0).convert("L")


def _fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale down to fit a box; a picture that fits stays as it is."""
    scale = min(1.0, width / image.width, height / image.height)
    if scale == 1.0:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode the pixels alone: what the source carried (comments, EXIF, profiles) stays behind."""
    image.info.clear()
    out = io.BytesIO()
    image.save(out, kind, optimize=True, **options)
    return out.getvalue()


def _jpeg(image: Image.Image, quality: int, subsampling: str) -> bytes:
    return _encoded(image, "JPEG", quality=quality, subsampling=subsampling)


def _draw_heading(draw: ImageDraw.ImageDraw, layout: Layout, title: str) -> None:
    """Write the title at the left and the number of pictures below it."""
    large = ImageFont.load_default(layout.title)
    small = ImageFont.load_default(max(10, layout.title // 2))
    left, top, room = 2 * layout.gap, 2 * layout.gap, layout.size[0] - 4 * layout.gap
    heading = _shortened(_printable(title), room, large)
    draw.text((left, top + layout.title), heading, font=large, fill=TITLE, anchor="ls")
    count = "1 picture" if layout.count == 1 else f"{layout.count:,} pictures"
    draw.text((left, top + layout.title * 1.9), count, font=small, fill=MUTED, anchor="ls")


def _draw_strip(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: Sequence[Mapping[str, Any]]
) -> None:
    """Fill a box with colours from left to right, each as wide as its share but always visible."""
    left, top, right, bottom = box
    shares = [max(LEAST_SHARE, float(colour["share"])) for colour in colours]
    total, before = sum(shares), 0.0
    for colour, share in zip(colours, shares, strict=True):
        start = left + round((right - left) * before / total)
        before += share
        end = left + round((right - left) * before / total)
        if end > start:
            draw.rectangle((start, top, end - 1, bottom - 1), fill=ImageColor.getrgb(str(colour["hex"])))


def _printable(text: str) -> str:
    """Spell a text with what Pillow's own font can draw, ASCII: accents go, anything else becomes "?"."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", text) if not unicodedata.combining(part))
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in plain)


def _shortened(text: str, room: float, font: Font) -> str:
    """Take letters out of the middle until the text fits: the beginning and the extension say the most."""
    if font.getlength(text) <= room:
        return text
    for kept in range(min(len(text), 400) - 1, 1, -1):
        short = text[: kept - kept // 2] + "…" + text[-(kept // 2) :]
        if font.getlength(short) <= room:
            return short
    return text[:1]
