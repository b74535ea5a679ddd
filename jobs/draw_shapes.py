"""Draws a small data set: coloured discs, squares and triangles on noisy backgrounds.

    python jobs/draw_shapes.py OUT --images 48 --size 160 --seed 1 --format yolo

writes PNG images with their labels in one of mpitile's formats, ``shapes.names`` with one
class name a line, and two lists of images, ``train.txt`` and ``valid.txt`` (the last
quarter); for "voc" the lists lie in ``ImageSets/Main``. "folders" draws one shape an image.
The same arguments give the same files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("disc", "square", "triangle")
FORMATS = ("yolo", "voc", "folders")
MOST_SHAPES = 4
GAP = 2


@dataclass(frozen=True)
class Shape:
    """A shape that fills the pixels ``[left, left + side) x [top, top + side)``."""

    name: str
    left: int
    top: int
    side: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """First and last pixel columns and rows: left, top, right, bottom."""
        return self.left, self.top, self.left + self.side - 1, self.top + self.side - 1

    def apart(self, other: Shape) -> bool:
        return (
            self.left >= other.left + other.side + GAP
            or other.left >= self.left + self.side + GAP
            or self.top >= other.top + other.side + GAP
            or other.top >= self.top + self.side + GAP
        )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    stems = [f"shapes_{number:05d}" for number in range(options.images)]
    # Classes by turns, so that a small set has every one of them in both lists.
    write = {"yolo": write_yolo, "voc": write_voc, "folders": write_folders}[options.format]
    entries = []
    for number, stem in enumerate(stems):
        rng = np.random.default_rng([options.seed, number])
        count = 1 if options.format == "folders" else int(rng.integers(1, MOST_SHAPES + 1))
        shapes = place_shapes(rng, options.size, count, NAMES[number % len(NAMES)])
        entries.append(write(options.out, stem, draw_image(rng, options.size, shapes), shapes))
    write_lists(options.out, options.format, entries)
    print(
        f"{options.out}: {options.images} images of {options.size}x{options.size}, "
        f"format {options.format}, classes {' '.join(NAMES)}"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--images", type=at_least(2), default=48, help="number of images")
    parser.add_argument("--size", type=at_least(32), default=160, help="width and height")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of all random numbers")
    parser.add_argument("--format", choices=FORMATS, default="yolo")
    return parser.parse_args(arguments)


def at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got '{text}'")
        return int(text)

    return whole_number


def place_shapes(rng: np.random.Generator, size: int, count: int, first: str) -> list[Shape]:
    """Up to `count` shapes that do not touch, the first of class `first`."""
    shapes: list[Shape] = []
    name = first
    for _ in range(20 * count):
        side = int(rng.integers(size // 6, size * 2 // 5 + 1))
        left, top = (int(place) for place in rng.integers(0, size - side + 1, 2))
        shape = Shape(name, left, top, side)
        if all(shape.apart(other) for other in shapes):
            shapes.append(shape)
            name = str(rng.choice(NAMES))
        if len(shapes) == count:
            break
    return shapes


def draw_image(rng: np.random.Generator, size: int, shapes: Sequence[Shape]) -> Image.Image:
    """Shapes in strong colours on a grey background, all with noise."""
    background = rng.uniform(90, 160)
    image = Image.new("RGB", (size, size), (int(background),) * 3)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        left, top, right, bottom = shape.corners
        colour = tuple(int(value) for value in rng.permutation((230, 30, rng.integers(30, 231))))
        if shape.name == "disc":
            draw.ellipse((left, top, right, bottom), fill=colour)
        elif shape.name == "square":
            draw.rectangle((left, top, right, bottom), fill=colour)
        else:
            tip = (left + right) / 2
            draw.polygon(((left, bottom), (right, bottom), (tip, top)), fill=colour)
    noise = rng.normal(0, 12, (size, size, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def write_yolo(out: Path, stem: str, image: Image.Image, shapes: Sequence[Shape]) -> str:
    size = image.width
    lines = [
        f"{NAMES.index(shape.name)} {(shape.left + shape.side / 2) / size:.6f} "
        f"{(shape.top + shape.side / 2) / size:.6f} {shape.side / size:.6f} "
        f"{shape.side / size:.6f}\n"
        for shape in shapes
    ]
    save(image, out / "images" / f"{stem}.png")
    write_text(out / "labels" / f"{stem}.txt", "".join(lines))
    return f"images/{stem}.png"


def write_voc(out: Path, stem: str, image: Image.Image, shapes: Sequence[Shape]) -> str:
    objects = []
    for shape in shapes:
        # VOC counts pixels from 1.
        corners = zip(("xmin", "ymin", "xmax", "ymax"), shape.corners, strict=True)
        box = "".join(f"<{tag}>{pixel + 1}</{tag}>" for tag, pixel in corners)
        objects.append(
            f"  <object><name>{escape(shape.name)}</name><difficult>0</difficult>"
            f"<bndbox>{box}</bndbox></object>\n"
        )
    save(image, out / "JPEGImages" / f"{stem}.png")
    write_text(
        out / "Annotations" / f"{stem}.xml",
        f"<annotation>\n  <filename>{stem}.png</filename>\n  <size><width>{image.width}</width>"
        f"<height>{image.height}</height><depth>3</depth></size>\n"
        f"{''.join(objects)}</annotation>\n",
    )
    return stem


def write_folders(out: Path, stem: str, image: Image.Image, shapes: Sequence[Shape]) -> str:
    save(image, out / shapes[0].name / f"{stem}.png")
    return f"{shapes[0].name}/{stem}.png"


def write_lists(out: Path, format_name: str, entries: Sequence[str]) -> None:
    folder = out / "ImageSets" / "Main" if format_name == "voc" else out
    valid = max(1, len(entries) // 4)
    write_text(folder / "train.txt", "".join(f"{entry}\n" for entry in entries[:-valid]))
    write_text(folder / "valid.txt", "".join(f"{entry}\n" for entry in entries[-valid:]))
    write_text(out / "shapes.names", "".join(f"{name}\n" for name in NAMES))


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
