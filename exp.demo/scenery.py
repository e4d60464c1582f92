"""The things that generated street scenes are made of: paints, pens, and how each class is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("sky", (70, 130, 180)),
    ("ground", (128, 96, 128)),
    ("building", (190, 150, 90)),
    ("tree", (60, 140, 40)),
    ("car", (0, 0, 190)),
    ("person", (220, 20, 60)),
    ("animal", (250, 140, 30)),
    ("sign", (240, 230, 40)),
)
INDEX = {name: index for index, (name, _) in enumerate(CLASSES)}

T = TypeVar("T")
Colours = tuple[tuple[int, int, int], ...]
Point = tuple[float, float]

# Palettes are what makes a class easy to find and hard to get right: a class has colours of its own, and shares some
# (a coat is as brown as soil, bark and hair; a car or a sign is as white as a cloud and as red as a wall).
SKIES = ((90, 150, 220), (150, 195, 235), (180, 185, 190), (200, 190, 200), (110, 130, 180), (220, 225, 230))
CLOUDS = ((245, 245, 245), (215, 215, 220), (150, 155, 165), (245, 205, 185))
SOILS = ((95, 95, 98), (135, 132, 128), (110, 125, 70), (125, 135, 85), (170, 150, 110), (145, 115, 80))
WALLS = ((160, 75, 55), (205, 185, 150), (150, 150, 150), (225, 220, 210), (115, 85, 65), (130, 165, 195))
PANES = ((40, 45, 55), (90, 130, 170), (190, 215, 235), (235, 205, 120))
LEAVES = ((50, 105, 45), (85, 140, 50), (40, 75, 50), (120, 150, 50), (175, 130, 40))
BARKS = ((90, 65, 45), (120, 110, 100), (60, 50, 45), (190, 185, 175))
COATS = ((120, 75, 40), (60, 42, 35), (190, 145, 90), (165, 85, 40), (205, 165, 110))
SKINS = ((235, 195, 165), (200, 150, 115), (140, 95, 65), (85, 60, 45))
POLES = ((150, 150, 155), (60, 60, 65), (110, 85, 60), (215, 215, 215))
DARKS = ((25, 25, 28), (45, 42, 45))
PAINTS = ((191, 38, 38), (191, 76, 38), (38, 140, 191), (38, 76, 191), (38, 38, 191), (200, 200, 205), (60, 62, 70))
CLOTHES = (
    (132, 66, 165),
    (165, 66, 165),
    (165, 66, 132),
    (165, 66, 99),
    (66, 165, 149),
    (66, 149, 165),
    (76, 25, 102),
    (102, 25, 76),
    (25, 102, 89),
)
BOARDS = ((242, 190, 36), (242, 214, 36), (242, 242, 36), (240, 240, 235), (200, 30, 35))


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options."""
    return options[int(rng.integers(len(options)))]


def points(text: str) -> list[Point]:
    """Read an outline written as "u,v u,v ..." in percent of the object's height."""
    return [(float(u) / 100, float(v) / 100) for u, v in (pair.split(",") for pair in text.split())]


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Return smooth noise in 0..1 whose blobs are about `cell` pixels wide."""
    height, width = shape
    coarse = rng.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def steps(shape: tuple[int, int], cell: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows and of the columns of cells."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows / cell).astype(int), (columns / cell).astype(int)


def bricks(_: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Return bricks two by one cells large, every other one dark."""
    rows, columns = steps(shape, cell)
    return ((columns + rows) // 2 + rows) % 2


ROUND: list[Point] = [(np.cos(angle), np.sin(angle)) for angle in np.arange(0, 2 * np.pi, np.pi / 12)]
# A pattern mixes two colours: it gives the second one's share of every pixel, for blobs of a size in pixels.
PATTERNS: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    "plain": lambda rng, shape, cell: np.zeros((1, 1), np.float32),
    "grain": lambda rng, shape, cell: rng.random(shape, dtype=np.float32),
    "cloudy": noise,
    "patches": lambda rng, shape, cell: noise(rng, shape, cell) > 0.55,
    "stripes": lambda rng, shape, cell: choose(rng, steps(shape, cell)) % 2,
    "bricks": bricks,
}


@dataclass(frozen=True)
class Paint:
    """Two colours mixed by a pattern; worked out only where it is used, since most parts are small."""

    first: np.ndarray
    change: np.ndarray
    share: np.ndarray

    def __mul__(self, light: float) -> "Paint":
        return Paint(self.first * light, self.change * light, self.share)

    def at(self, inside: tuple[np.ndarray, ...] | np.ndarray) -> np.ndarray:
        """Return the colours of the pixels inside a mask."""
        return self.first + self.change * self.share[inside][:, None]


@dataclass(frozen=True)
class Scene:
    """A picture in the making: pixels (RGB in 0..1), labels and the conditions that all its objects share."""

    image: np.ndarray
    label: np.ndarray
    rng: np.random.Generator
    horizon: float
    sun: float  # -1: light from the left, 1: from the right
    fog: float
    air: np.ndarray  # the colour that far things fade to

    def colour(self, palette: Colours) -> np.ndarray:
        """Return a palette colour, slightly off so that no two objects share it."""
        shade = np.array(choose(self.rng, palette), np.float32) * (self.rng.uniform(0.8, 1.2) / 255)
        return shade + self.rng.standard_normal(3, np.float32) * 0.03

    def material(self, palette: Colours, patterns: Sequence[str], cell: float) -> Paint:
        """Return a paint of two colours of the palette."""
        share = PATTERNS[choose(self.rng, patterns)](self.rng, self.label.shape, max(cell, 2.0))
        first, second = self.colour(palette), self.colour(palette)
        change = (second - first) * np.float32(self.rng.uniform(0.25, 0.9))
        return Paint(first, change, np.broadcast_to(share, self.label.shape))


class Pen:
    """Draws the parts of one object in its own units: its foot is (0, 0), its height 1, and v goes up."""

    def __init__(self, scene: Scene, name: str, *, foot: Point, size: float, depth: float) -> None:
        self.scene, self.rng, self.size = scene, scene.rng, size
        self.foot = np.array(foot)
        self.scale = np.array([choose(scene.rng, (-1, 1)) * scene.rng.uniform(0.85, 1.15), -1]) * size
        self.index = INDEX[name]
        self.haze = scene.fog * (1 - depth)
        across = (np.arange(scene.label.shape[1], dtype=np.float32) - foot[0]) / size
        self.shade = (1 + 0.3 * scene.sun * np.clip(across, -1, 1))[:, None]  # the side to the sun is brighter

    def material(self, palette: Colours, *patterns: str, cell: float = 0.06) -> Paint:
        """Return a paint whose blobs are `cell` of the object's height."""
        return self.scene.material(palette, patterns or ("plain",), cell * self.size)

    def polygon(self, outline: Sequence[Point], paint: Paint, *others: Sequence[Point]) -> None:
        """Fill a polygon, and others that lie apart from it."""
        mask = np.zeros_like(self.scene.label)
        cv2.fillPoly(mask, [self._pixels(one) for one in (outline, *others)], 1)
        self._fill(mask, paint)

    def box(self, left: float, bottom: float, right: float, top: float, paint: Paint) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, bottom), (left, top), (right, top), (right, bottom)], paint)

    def oval(self, centre: Point, radii: Point, paint: Paint) -> None:
        """Fill an ellipse."""
        self.polygon([(centre[0] + u * radii[0], centre[1] + v * radii[1]) for u, v in ROUND], paint)

    def stroke(self, line: Sequence[Point], width: float, paint: Paint) -> None:
        """Draw a line through the points."""
        mask = np.zeros_like(self.scene.label)
        cv2.polylines(mask, [self._pixels(line)], False, 1, max(1, round(width * self.size)))
        self._fill(mask, paint)

    def _pixels(self, outline: Sequence[Point]) -> np.ndarray:
        return np.round(self.foot + np.array(outline) * self.scale).astype(np.int32)

    def _fill(self, mask: np.ndarray, paint: Paint) -> None:
        if (found := cv2.findNonZero(mask)) is None:
            return
        columns, rows = found.reshape(-1, 2).T
        inside = rows, columns
        lit = paint.at(inside) * self.shade[columns]
        self.scene.image[inside] = lit * (1 - self.haze) + self.scene.air * self.haze
        self.scene.label[inside] = self.index


def draw_building(pen: Pen) -> None:
    """A house, a block or a tower, with its side wall, roof, door and windows; some have a mural or an awning."""
    rng, half = pen.rng, pen.rng.uniform(0.2, 0.75)
    top = 1.0 if rng.random() < 0.6 else rng.uniform(0.6, 0.8)
    wall = pen.material(WALLS, "plain", "bricks", "bricks", "stripes", "grain", cell=rng.uniform(0.02, 0.06))
    side = rng.uniform(0, 0.25)
    pen.polygon([(half, 0), (half, top), (half + side, top - 0.1), (half + side, 0.03)], wall * 0.6)
    pen.box(-half, 0, half, top, wall)
    if top < 1:
        roof = pen.material(WALLS + DARKS, "plain", "stripes", "bricks", cell=0.04)
        pen.polygon([(-half - 0.05, top), (rng.uniform(-half, half), 1), (half + 0.05, top)], roof)
    pane, step, gap = pen.material(PANES, "plain", "patches"), rng.uniform(0.14, 0.24), rng.uniform(0.25, 0.5)
    panes = [
        [(u, v), (u + step * (1 - gap), v), (u + step * (1 - gap), v + step / 2), (u, v + step / 2)]
        for v in np.arange(0.22, top - step / 2, step)
        for u in np.arange(-half + 0.04, half - step / 2, step)
    ]
    pen.polygon(panes[0], pane, *panes[1:])
    pen.box(-0.06, 0, 0.06, 0.16, pen.material(WALLS + PANES))
    if rng.random() < 0.35:  # looks like a sign, and is wall
        pen.oval(
            (rng.uniform(-half, half) * 0.6, 0.55), (0.09, 0.09), pen.material(WALLS + PANES, "stripes", "patches")
        )
    if rng.random() < 0.35:
        pen.box(-half, 0.16, half, 0.22, pen.material(WALLS + PANES, "stripes"))


def draw_tree(pen: Pen) -> None:
    """A round tree, a conifer, a poplar, a palm, a bare tree or a bush."""
    rng, bark, lean = pen.rng, pen.material(BARKS, "grain", "stripes"), pen.rng.uniform(-0.1, 0.1)
    leaf = pen.material(LEAVES, "grain", "patches", "cloudy", "patches", cell=rng.uniform(0.03, 0.1))
    style = choose(rng, ("round", "round", "conifer", "poplar", "palm", "bare", "bush"))
    if style != "bush":
        pen.stroke([(0, 0), (lean / 2, 0.4), (lean, 0.7)], rng.uniform(0.04, 0.1), bark)
    if style == "conifer":
        for v in (0.15, 0.4, 0.62):
            wide = 0.42 * (1.1 - v)
            pen.polygon([(-wide, v), (lean, min(1, v + 0.42)), (wide, v)], leaf * (0.8 + v / 3))
    elif style == "poplar":
        pen.oval((lean, 0.58), (rng.uniform(0.12, 0.2), 0.42), leaf)
    elif style in ("palm", "bare"):
        droop, paint = (0.18, leaf) if style == "palm" else (0, bark)
        for angle in rng.uniform(0.2, np.pi - 0.2, 10):
            u, v = np.cos(angle), np.sin(angle)
            tip = (lean + 0.42 * u, 0.7 + 0.28 * v - droop * abs(u))
            start = (lean, 0.7 if style == "palm" else rng.uniform(0.4, 0.7))
            pen.stroke([start, (lean + 0.22 * u, 0.68 + 0.2 * v), tip], 0.04, paint)
    else:
        middle, across, up = (0.66, 0.2, 0.15) if style == "round" else (0.25, 0.3, 0.1)
        for _ in range(9):
            centre = (lean + rng.uniform(-across, across), middle + rng.uniform(-up, up))
            pen.oval(centre, (0.2, rng.uniform(0.13, 0.19)), leaf * rng.uniform(0.75, 1.2))


# Outline of the body, then its windows; the nose is on the right. From the side, and last from the front.
CARS = tuple(
    tuple(points(outline) for outline in outlines.split(";"))
    for outlines in (
        "-140,15 -140,55 -90,62 -50,100 40,100 80,60 140,50 145,15; -75,63 -45,92 -10,92 -10,63; 0,63 0,92 35,92 65,63",
        "-110,15 -115,60 -95,100 20,100 60,62 110,50 110,15; -90,63 -80,90 -30,90 -30,63; -20,63 -20,90 15,90 45,63",
        "-110,15 -110,100 60,100 85,60 110,50 110,15; 20,60 20,90 55,90 72,60",
        "-150,15 -150,100 140,100 150,50 150,15; -140,50 -140,85 -30,85 -30,50; -15,50 -15,85 80,85 80,50",
        "-150,18 -150,55 -20,55 -10,100 50,100 80,60 140,52 140,18; 0,60 2,92 42,92 65,60",
        "-65,15 -68,55 -48,100 48,100 68,55 65,15; -52,60 -40,92 40,92 52,60; -30,20 -30,36 30,36 30,20",
    )
)


def draw_car(pen: Pen) -> None:
    """A saloon, hatchback, van, bus or pick-up from the side, or a car from the front."""
    body, *windows = choose(pen.rng, CARS)
    paint, pane = pen.material(PAINTS, "plain", "plain", "stripes", cell=0.25), pen.material(PANES)
    tail, nose = body[0][0], body[-1][0]
    wheel, lamp, wide = (0.2, 0.19, 0.62) if nose > 1 else (0.12, 0.42, 0.75)  # a lamp, or the hub of a wheel
    pen.polygon(body, paint)
    pen.box(tail, body[0][1], nose, 0.3, paint * 0.7)
    pen.polygon(windows[0], pane, *windows[1:])
    for u in (tail * wide, nose * wide):
        pen.oval((u, wheel), (wheel, wheel), pen.material(DARKS))
        pen.oval((u, lamp), (0.09, 0.09), pen.material(CLOUDS))


def draw_person(pen: Pen) -> None:
    """Someone standing, walking or waving, in trousers, shorts or a skirt, perhaps with a hat or a bag."""
    rng, skin = pen.rng, pen.material(SKINS)
    shirt = pen.material(CLOTHES, "plain", "stripes", "patches", "grain", cell=0.05)
    cloth, hair = pen.material(CLOTHES, "plain", "plain", "stripes", cell=0.04), pen.material(COATS)
    stride, waist = rng.uniform(0.02, 0.17), rng.uniform(0.44, 0.5)
    sleeve = shirt if rng.random() < 0.5 else skin
    for side in (-1, 1):
        knee = (0.06 * side + 0.02, 0.25)
        pen.stroke([(0.05 * side, waist), knee, (stride * side, 0.02)], 0.085, skin if rng.random() < 0.2 else cloth)
        pen.stroke([(stride * side, 0.02), (stride * side + 0.05, 0.02)], 0.05, pen.material(DARKS + COATS))
        hand = (side * rng.uniform(0.12, 0.3), rng.uniform(0.4, 1.0) if rng.random() < 0.3 else rng.uniform(0.4, 0.55))
        pen.stroke([(0.11 * side, 0.78), (0.18 * side, 0.62), hand], 0.065, sleeve)
    pen.polygon([(-0.09, waist - 0.02), (-0.14, 0.81), (0.14, 0.81), (0.09, waist - 0.02)], shirt)
    if rng.random() < 0.35:
        pen.polygon([(-0.2, 0.25), (-0.09, waist + 0.08), (0.09, waist + 0.08), (0.2, 0.25)], cloth)
    pen.oval((0, 0.92), (0.075, 0.09), hair)
    pen.oval((0.025, 0.9), (0.055, 0.07), skin)
    if rng.random() < 0.3:
        pen.box(-0.1, 0.94, 0.12, 1.0, pen.material(CLOTHES))
    if rng.random() < 0.3:
        pen.box(-0.24, 0.5, -0.1, 0.75, pen.material(CLOTHES, "plain", "patches"))


# Half length of the body, half thickness, neck (how far forward, how high), head length, leg width.
ANIMALS = (
    (0.48, 0.17, (0.62, 0.85), 0.17, 0.10),  # dog
    (0.42, 0.15, (0.68, 0.90), 0.19, 0.07),  # horse
    (0.62, 0.25, (0.85, 0.78), 0.20, 0.11),  # cow
    (0.55, 0.30, (0.68, 0.72), 0.16, 0.09),  # sheep
    (0.36, 0.13, (0.48, 0.92), 0.13, 0.05),  # deer
    (0.58, 0.22, (0.88, 0.30), 0.18, 0.10),  # grazing
)


def draw_animal(pen: Pen) -> None:
    """A four-legged animal from the side, one or two of whose colours are in its coat."""
    rng, (half, thick, head, length, leg) = pen.rng, choose(pen.rng, ANIMALS)
    coat = pen.material(COATS, "plain", "patches", "patches", "grain", "stripes", cell=rng.uniform(0.08, 0.25))
    middle = 0.78 - thick
    for u in (-0.8, -0.6, 0.6, 0.8):
        foot = (u * half + rng.uniform(-0.08, 0.08), 0)
        pen.stroke([(u * half, middle), (u * half, 0.3), foot], leg, coat * rng.uniform(0.7, 1))
    pen.stroke([(-half, middle + 0.1), (-half - 0.13, rng.uniform(0.3, 0.9))], 0.05, coat * 0.8)
    pen.oval((0, middle), (half, thick), coat)
    chest, withers, throat = (half / 2, middle - thick / 2), (half / 2, 0.76), (head[0] + 0.04, head[1] - 0.15)
    pen.polygon([chest, withers, head, throat], coat)
    face = coat if rng.random() < 0.6 else pen.material(COATS)
    pen.oval((head[0] + length * 0.4, head[1] - 0.04), (length, length * 0.55), face)
    pen.polygon([(head[0] - 0.08, head[1]), (head[0] - 0.04, head[1] + 0.15), (head[0] + 0.05, head[1])], face * 0.8)


PANELS = [ROUND, ROUND[1::3], points("-100,-85 0,100 100,-85"), points("-100,85 0,-100 100,85")]
PANELS += [points("-100,0 0,100 100,0 0,-100"), points("-150,-80 -150,80 150,80 150,-80")]
PANELS += [points("-70,-100 -70,100 70,100 70,-100"), points("-140,-50 -140,50 90,50 160,0 90,-50")]


def draw_sign(pen: Pen) -> None:
    """A panel on one or two poles, rimmed, with stripes, bars like writing or a pictogram."""
    rng, pole, panel = pen.rng, pen.material(POLES), choose(pen.rng, PANELS)
    radius = rng.uniform(0.22, 0.32)
    for u in (0,) if rng.random() < 0.75 else (-0.8 * radius, 0.8 * radius):
        pen.stroke([(u, 0), (u, 1 - radius)], 0.06, pole)
    middle = 1 - radius
    face = pen.material(BOARDS, "plain", "plain", "stripes", cell=radius / 2)
    for scale, paint in ((1, pen.material(BOARDS)), (0.72, face)):
        pen.polygon([(u * radius * scale, middle + v * radius * scale) for u, v in panel], paint)
    ink = pen.material(DARKS)
    for row in range(int(rng.integers(0, 4))):
        v = middle + radius * (0.25 - 0.3 * row)
        pen.box(-radius * 0.4, v, radius * rng.uniform(0.0, 0.5), v + radius * 0.16, ink)


# How a class is drawn, how high beside a near view one unit high, and how near it comes (0: horizon, 1: our feet).
KINDS: dict[str, tuple[Callable[[Pen], None], Point, Point]] = {
    "building": (draw_building, (0.9, 1.9), (0.0, 0.25)),
    "tree": (draw_tree, (0.6, 1.5), (0.0, 0.7)),
    "car": (draw_car, (0.4, 0.6), (0.1, 1.0)),
    "person": (draw_person, (0.8, 1.2), (0.1, 1.0)),
    "animal": (draw_animal, (0.5, 0.8), (0.1, 1.0)),
    "sign": (draw_sign, (0.8, 1.2), (0.1, 0.8)),
}
