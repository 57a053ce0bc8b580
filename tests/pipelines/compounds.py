"""Synthetic compound figures whose panels are known: drawn from random pictures and charts, never from real ones."""

import io
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
KINDS = ("photographs", "scans", "charts", "mixed", "touching", "grey", "ruled", "groups", "subplots")
SINGLES = ("grid chart", "gel", "bordered photograph", "table", "photograph", "line chart", "scan", "bar chart")


@dataclass(frozen=True, eq=False)
class Compound:
    """A synthetic figure: uint8 pixels (Y, X, C), the letters and boxes of its panels in order, its caption."""

    pixels_YXC: np.ndarray  # noqa: N815
    letters: tuple[str, ...]
    boxes: tuple[Box, ...]
    caption: str
    kind: str


def compound(seed: int, kind: str = "", *, lettered: bool = True) -> Compound:
    """A compound figure of 2 to 9 panels; the same one for the same arguments."""
    rng = np.random.default_rng(seed)
    kind = kind or KINDS[int(rng.integers(len(KINDS)))]
    if kind == "subplots":
        return _subplots(rng, lettered)
    height, width = int(rng.integers(500, 1000)), int(rng.integers(600, 1200))
    narrow = kind in ("photographs", "scans", "grey", "ruled", "groups")
    gutter = 0 if kind == "touching" else int(rng.integers(4, 30) if narrow else rng.integers(18, 60))
    gutter += 6 * (kind in ("ruled", "groups"))
    sheet = 0 if kind == "scans" and rng.random() < 0.2 else int(rng.integers(90, 215)) if kind == "grey" else 255
    canvas = Image.new("RGB", (width, height), (sheet,) * 3)
    margin = 0 if kind == "touching" else int(rng.integers(0, 16))
    letter_px = int(rng.integers(18, 36))
    outside = kind in ("charts", "mixed", "groups") or (gutter > 10 and rng.random() < 0.3)
    cells = _cells(rng, (margin, margin, height - margin, width - margin), gutter)
    boxes, names = [], list(string.ascii_uppercase[: len(cells)])
    drawn = names if rng.random() < 0.7 else [n.lower() for n in names]
    marked = rng.random() < 0.85
    if kind == "ruled":
        _rule(canvas, cells, gutter)
    for name, cell in zip(drawn, cells, strict=True):
        y0, x0, y1, x1 = cell
        content = _content(rng, kind)
        top = y0 + letter_px + 2 if outside and marked else y0
        box = _paste(canvas, content(rng, y1 - top, x1 - x0), (top, x0))
        boxes.append((y0, x0, *box[2:]) if outside and marked else box)  # a panel's letter is a part of it
        if marked:
            _letter(canvas, name, (y0, x0), letter_px, outside=outside, sheet=sheet)
    caption = (
        "Synthetic. " + " ".join(f"({n}) Panel {n.lower()}{n.lower()}." for n in drawn) if lettered else "Synthetic."
    )
    return Compound(_stored(rng, canvas), tuple(names), tuple(boxes), caption, kind)


def single(seed: int, kind: str) -> Compound:
    """A figure that is one picture, though lines, gaps or a border run through it."""
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(400, 900)), int(rng.integers(500, 1000))
    if kind == "bordered photograph":
        canvas = Image.new("RGB", (width, height), "white")
        border = int(rng.integers(10, 60))
        canvas.paste(photograph(rng, height - 2 * border, width - 2 * border), (border, border))
    else:
        draw: dict[str, Callable[[np.random.Generator, int, int], Image.Image]] = {
            "grid chart": lambda r, h, w: chart(r, h, w, style="grid"), "gel": gel, "table": table, "scan": scan,
            "photograph": photograph, "line chart": lambda r, h, w: chart(r, h, w, style="line"),
            "bar chart": lambda r, h, w: chart(r, h, w, style="bar"),
        }  # fmt: skip
        canvas = Image.new("RGB", (width, height), "white")
        canvas.paste(draw[kind](rng, height, width), (0, 0))
    return Compound(_stored(rng, canvas), (), (), "Synthetic. One picture.", kind)


def photograph(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Smooth random colours with grain, as tissue under a microscope has them."""
    base = rng.integers(20, 215, 3)
    coarse = np.clip(base + rng.normal(0, 45, (rng.integers(4, 9), rng.integers(4, 9), 3)), 0, 235)
    image = Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    fine = np.clip(base + rng.normal(0, 60, (height // 6 + 1, width // 6 + 1, 3)), 0, 235).astype(np.uint8)
    return Image.blend(image, Image.fromarray(fine).resize((width, height), Image.Resampling.BICUBIC), 0.35)


def scan(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A bright body on black that does not reach the sides, as in computed tomography."""
    y, x = np.mgrid[0:height, 0:width]
    inside = ((y / height - 0.5) / rng.uniform(0.38, 0.49)) ** 2 + (
        (x / width - 0.5) / rng.uniform(0.38, 0.49)
    ) ** 2 < 1
    texture = np.asarray(photograph(rng, height, width).convert("L"), np.float32)
    noise = rng.normal(6, 3, (height, width))
    grey = np.where(inside, 60 + 0.6 * texture, noise)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def gel(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Lanes of dark bands on light grey."""
    grey = np.full((height, width), rng.integers(185, 225), np.float32)
    lanes = int(rng.integers(5, 10))
    for lane in range(lanes):
        x0, x1 = int((lane + 0.15) * width / lanes), int((lane + 0.85) * width / lanes)
        for _ in range(int(rng.integers(2, 6))):
            y = int(rng.integers(height // 12, height - height // 12))
            grey[y : y + max(4, height // 40), x0:x1] = rng.integers(20, 110)
    grey += rng.normal(0, 5, grey.shape)
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")


def table(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Rows of words between ruled lines."""
    image = Image.new("RGB", (width, height), "white")
    pen, rows, columns = ImageDraw.Draw(image), int(rng.integers(6, 14)), int(rng.integers(3, 6))
    ruled = rng.random() < 0.5
    for row in range(rows + 1):
        y = 6 + row * (height - 12) // rows
        if ruled or row in (0, 1, rows):
            pen.line((6, y, width - 6, y), fill="black", width=2)
        for column in range(columns if row < rows else 0):
            size = max(9, min(20, (height - 12) // rows // 2))
            word = "".join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 9))))
            pen.text(
                (12 + column * (width - 24) // columns, y + 5), word, fill="black", font=ImageFont.load_default(size)
            )
    return image


@cache
def _charts() -> list[tuple[str, Image.Image]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rng, made = np.random.default_rng(7), []
    for number in range(36):
        style = ("line", "bar", "grid", "scatter", "box", "heat")[number % 6]
        shape = (float(rng.uniform(3, 6)), float(rng.uniform(2.4, 4.5)))
        figure, axes = pyplot.subplots(figsize=shape, dpi=150)
        x = np.arange(12)
        if style in ("line", "grid"):
            for _ in range(3):
                axes.plot(x, rng.normal(0, 1, 12).cumsum(), marker="o" if number % 4 else "", label="group")
            axes.grid(style == "grid")
            if number % 2:
                axes.legend()
        elif style == "bar":
            axes.bar(x[:6], rng.uniform(1, 9, 6), yerr=rng.uniform(0.2, 1, 6), color=("grey", "tab:blue")[number % 2])
            axes.set_xticks(
                x[:6], ["Control", "Dose 1", "Dose 2", "Both", "Late", "None"], rotation=(0, 45)[number % 2]
            )
        elif style == "scatter":
            axes.scatter(rng.normal(0, 1, 60), rng.normal(0, 1, 60), s=14)
        elif style == "box":
            axes.boxplot([rng.normal(m, 1, 30) for m in range(4)])
        else:
            axes.imshow(rng.normal(0, 1, (10, 14)), aspect="auto")
        if number % 3:
            axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(("Time (days)", "Group", "Dose (mg/kg)")[number % 3])
        axes.set_ylabel(("Expression", "Survival (%)", "Count")[number % 3])
        if number % 4 == 0:
            axes.set_title("Response")
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0)
        pyplot.close(figure)
        made.append((style, Image.open(file).convert("RGB")))
    return made


def chart(rng: np.random.Generator, height: int, width: int, *, style: str = "") -> Image.Image:
    """A chart, as large as fits without stretching it by more than a third, on white."""
    pool = [image for name, image in _charts() if style in ("", name)]
    image = pool[int(rng.integers(len(pool)))]
    scale = min(height / image.height, width / image.width)
    wide, high = min(width, int(image.width * scale * 1.33)), min(height, int(image.height * scale * 1.33))
    out = Image.new("RGB", (width, height), "white")
    out.paste(image.resize((wide, high), Image.Resampling.LANCZOS), (0, 0))
    return out


def _content(rng: np.random.Generator, kind: str) -> Callable[[np.random.Generator, int, int], Image.Image]:
    if kind == "mixed":
        return (photograph, chart, chart, scan, gel)[int(rng.integers(5))]
    if kind == "groups":
        return _group
    return {"scans": scan, "charts": chart}.get(kind, photograph)


def _group(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """Two or three photographs side by side with a narrow gutter: one panel of several pictures."""
    out = Image.new("RGB", (width, height), "white")
    for y0, x0, y1, x1 in _split(rng, (0, 0, height, width), int(rng.integers(1, 4)), 3, 1, equal=True):
        out.paste(photograph(rng, y1 - y0, x1 - x0), (x0, y0))
    return out


def _subplots(rng: np.random.Generator, lettered: bool) -> Compound:
    """Charts as matplotlib lays them out, with labels that rows or columns share; boxes as matplotlib tells them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, columns = [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2)][int(rng.integers(5))]
    shared = bool(rng.random() < 0.5)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(3.1 * columns, 2.6 * rows), dpi=110, layout="constrained", squeeze=False,
        sharex=shared, sharey=shared,
    )  # fmt: skip
    names = list(string.ascii_uppercase[: rows * columns])
    drawn = names if rng.random() < 0.5 else [n.lower() for n in names]
    for name, axes in zip(drawn, grid.flat, strict=True):
        if rng.random() < 0.5:
            axes.plot(np.arange(12), rng.normal(0, 1, (12, 2)).cumsum(axis=0))
        else:
            axes.bar(np.arange(5), rng.uniform(1, 9, 5), color="grey")
        axes.set_title(name, loc="left", fontweight="bold", fontsize=14)
        if not shared:
            axes.set_xlabel("Time (days)")
            axes.set_ylabel("Level")
    if shared:
        figure.supxlabel("Time (days)")
        figure.supylabel("Level")
    figure.canvas.draw()
    pixels_YXC = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()  # type: ignore[attr-defined]
    boxes = []
    for axes in grid.flat:
        tight = axes.get_tightbbox()
        x0, y0, x1, y1 = tight.x0, tight.y0, tight.x1, tight.y1
        height, width = pixels_YXC.shape[:2]
        boxes.append(
            (max(0, int(height - y1)), max(0, int(x0)), min(height, int(height - y0) + 1), min(width, int(x1) + 1))
        )
    pyplot.close(figure)
    caption = (
        "Synthetic. " + " ".join(f"({n}) Panel {n.lower()}{n.lower()}." for n in drawn) if lettered else "Synthetic."
    )
    return Compound(pixels_YXC, tuple(names), tuple(boxes), caption, "subplots")


def _cells(rng: np.random.Generator, box: Box, gutter: int) -> list[Box]:
    """Cells in reading order: a grid, or rows of unequal number, or one panel that spans beside a column."""
    form = rng.random()
    if form < 0.5:
        rows, columns = [(1, 2), (1, 3), (2, 2), (2, 3), (3, 2), (3, 3), (2, 1), (1, 4)][int(rng.integers(8))]
        return [
            c
            for row in _split(rng, box, rows, gutter, 0, equal=True)
            for c in _split(rng, row, columns, gutter, 1, equal=True)
        ]
    if form < 0.8:
        rows = _split(rng, box, int(rng.integers(2, 4)), gutter, 0, equal=False)
        return [c for row in rows for c in _split(rng, row, int(rng.integers(1, 4)), gutter, 1, equal=False)]
    first, second = _split(rng, box, 2, gutter, 1, equal=False)
    return [first, *_split(rng, second, int(rng.integers(2, 4)), gutter, 0, equal=False)]


def _split(rng: np.random.Generator, box: Box, count: int, gutter: int, axis: int, *, equal: bool) -> list[Box]:
    length = box[2 + axis] - box[axis] - gutter * (count - 1)
    shares = np.ones(count) if equal else rng.uniform(0.7, 1.4, count)
    ends = np.rint(np.cumsum(shares / shares.sum()) * length).astype(int).tolist()
    starts = [0, *ends[:-1]]
    out = []
    for number, (a, b) in enumerate(zip(starts, ends, strict=True)):
        low, high = box[axis] + a + number * gutter, box[axis] + b + number * gutter
        out.append((low, box[1], high, box[3]) if axis == 0 else (box[0], low, box[2], high))
    return out


def _paste(canvas: Image.Image, content: Image.Image, corner: tuple[int, int]) -> Box:
    """Paste and return the box of what is seen of it on the sheet."""
    y, x = corner
    canvas.paste(content, (x, y))
    if content.getpixel((content.width - 1, content.height - 1)) != (255, 255, 255):
        return y, x, y + content.height, x + content.width
    ink = (np.asarray(content).min(axis=2) < 200).nonzero()
    return y + int(ink[0].min()), x + int(ink[1].min()), y + int(ink[0].max()) + 1, x + int(ink[1].max()) + 1


def _letter(canvas: Image.Image, name: str, corner: tuple[int, int], size: int, *, outside: bool, sheet: int) -> None:
    pen, font = ImageDraw.Draw(canvas), _font(size)
    y, x = corner
    if outside:
        pen.text((x + 1, y), name, fill="black" if sheet else "white", font=font, anchor="lt")
        return
    pen.rectangle((x, y, x + size * 1.2, y + size * 1.2), fill="white")
    pen.text((x + size * 0.6, y + size * 0.6), name, fill="black", font=font, anchor="mm")


def _rule(canvas: Image.Image, cells: list[Box], gutter: int) -> None:
    """Draw a thin line in the middle of each gutter."""
    pen = ImageDraw.Draw(canvas)
    for y0, x0, y1, x1 in cells:
        half = gutter // 2
        pen.rectangle((x0 - half, y0 - half, x1 + half, y1 + half), outline="black", width=1)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans:bold"), size)


def _stored(rng: np.random.Generator, canvas: Image.Image) -> np.ndarray:
    """The pixels, after JPEG of some quality two times in three."""
    if rng.random() < 0.67:
        file = io.BytesIO()
        canvas.save(file, "JPEG", quality=int(rng.integers(60, 96)))
        canvas = Image.open(file)
    return np.asarray(canvas)


@dataclass(frozen=True)
class Score:
    """How panels that were told agree with the true ones: the same letter, and IoU of at least 0.75.

    Attributes:
        precision, recall: of panels; those of a figure left whole are missed.
        exact: share of figures of which all panels, and no others, are right.
        left_whole: share of figures without panels.
    """

    precision: float
    recall: float
    exact: float
    left_whole: float
    figures: int


def scored(told: list[tuple[Compound, tuple]]) -> Score:
    """The score of (figure, its `PanelBox`es) pairs."""
    right = wrong = missed = exact = 0
    for figure, panels in told:
        true = dict(zip(figure.letters, figure.boxes, strict=True))
        hits = sum(p.letter in true and iou(p.box, true[p.letter]) >= 0.75 for p in panels)
        right, wrong, missed = right + hits, wrong + len(panels) - hits, missed + len(true) - hits
        exact += hits == len(true) == len(panels)
    whole = sum(not panels for _, panels in told)
    return Score(
        right / max(1, right + wrong), right / max(1, right + missed), exact / len(told), whole / len(told), len(told)
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union, counted on a raster and so by no formula that the code under test uses."""
    y, x = min(a[0], b[0]), min(a[1], b[1])
    canvas = np.zeros((max(a[2], b[2]) - y, max(a[3], b[3]) - x), np.uint8)
    canvas[a[0] - y : a[2] - y, a[1] - x : a[3] - x] += 1
    canvas[b[0] - y : b[2] - y, b[1] - x : b[3] - x] += 1
    return float((canvas == 2).sum() / (canvas > 0).sum())
