"""Plots: small SVG pictures for the report, drawn by hand so that the page needs no library and no network.

Colours are CSS classes of the page, so that a plot follows light and dark mode; all text is escaped.
"""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

CHARACTER_PX = 6.6  # width of a character of the page's 12 px font, a little more than it is on average
ROW_PX, COLUMN_PX = 26, 54


def heatmap(
    rows: Sequence[str], columns: Sequence[tuple[str, str]], counts: Mapping[tuple[str, str, str], int]
) -> Markup:
    """Return a table of counts as shaded cells, the shade by the logarithm of the count.

    Args:
        rows: names, top to bottom.
        columns: (head, sub-head), left to right; equal heads that follow each other share one label.
        counts: by (row, head, sub-head); cells that are not there stay empty.
    """
    left = _label_px(rows)
    width, height = left + COLUMN_PX * len(columns) + 2, 46 + ROW_PX * len(rows)
    most = math.log1p(max(counts.values(), default=1))
    drawn = [
        _text(left + COLUMN_PX * (at + length / 2), 14, head, "head", "middle") for head, at, length in _runs(columns)
    ]
    drawn += [_text(left + COLUMN_PX * (i + 0.5), 34, sub, "axis", "middle") for i, (_, sub) in enumerate(columns)]
    for r, row in enumerate(rows):
        y = 42 + ROW_PX * r
        drawn.append(_text(left - 10, y + 17, row, "axis", "end"))
        for c, (head, sub) in enumerate(columns):
            count, x = counts.get((row, head, sub), 0), left + COLUMN_PX * c
            shade = 0.14 + 0.86 * math.log1p(count) / most if count else 0
            drawn.append(_cell(x, y, shade, f"{row}, {head} {sub}: {count:,}"))
            if count:
                ink = "on" if shade > 0.55 else "ink"
                drawn.append(_text(x + COLUMN_PX / 2 - 1, y + 17, _short(count), ink, "middle"))
    return _svg(width, height, drawn, "media by anatomy, modality and dimension")


def bars(rows: Mapping[str, Mapping[str, int]], series: Sequence[str], *, unit: str) -> Markup:
    """Return horizontal bars, one per row, cut into `series` in their order, with the total at the end.

    Args:
        unit: what is counted, for those who hear the picture.
    """
    left, right, length = _label_px(rows), 80, 420
    most = max((sum(row.values()) for row in rows.values()), default=1) or 1
    drawn: list[Markup] = []
    for r, (name, parts) in enumerate(rows.items()):
        y, x = 4 + ROW_PX * r, float(left)
        drawn.append(_text(left - 10, y + 15, name, "axis", "end"))
        for s, one in enumerate(series):
            count = parts.get(one, 0)
            if count:
                span = max(1.5, length * count / most)
                title = f"{name}, {one}: {count:,} {unit}"
                drawn.append(
                    Markup(
                        '<rect x="{:.1f}" y="{}" width="{:.1f}" height="18" class="s{}"><title>{}</title></rect>'
                    ).format(x, y, span, s % 6, title)
                )
                x += span
        drawn.append(_text(x + 8, y + 14, f"{sum(parts.values()):,}", "ink", "start"))
    return _svg(left + length + right, 8 + ROW_PX * len(rows), drawn, f"{unit} by {', '.join(series)}")


def line(values: Sequence[float], *, x_label: str, y_label: str) -> Markup:
    """Return a line through `values` at 1, 2, 3 …; values that are not finite leave a gap in it."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    spread = (high - low) or 1.0
    left, top, width, height = 64, 10, 640, 200
    step = width / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if math.isfinite(value):
            pieces[-1].append(f"{left + i * step:.1f},{top + height * (high - value) / spread:.1f}")
        elif pieces[-1]:
            pieces.append([])
    drawn: list[Markup] = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        rule = Markup('<line x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}" class="rule"/>')
        drawn.append(rule.format(left, left + width, y))
        drawn.append(_text(left - 8, y + 4, f"{low + spread * share:.3g}", "axis", "end"))
    drawn += [Markup('<polyline points="{}" class="line"/>').format(" ".join(piece)) for piece in pieces if piece]
    drawn.append(_text(left, top + height + 20, "1", "axis", "middle"))
    drawn.append(_text(left + width, top + height + 20, f"{len(values):,}", "axis", "middle"))
    drawn.append(_text(left + width / 2, top + height + 20, x_label, "axis", "middle"))
    return _svg(left + width + 24, top + height + 28, drawn, f"{y_label} by {x_label}")


def _runs(columns: Sequence[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Return (head, first column, number of columns) of equal heads that follow each other."""
    runs: list[tuple[str, int, int]] = []
    for place, (head, _) in enumerate(columns):
        if runs and runs[-1][0] == head:
            runs[-1] = (head, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((head, place, 1))
    return runs


def _label_px(names: Sequence[str] | Mapping[str, object]) -> int:
    return 20 + round(CHARACTER_PX * max((len(name) for name in names), default=0))


def _cell(x: float, y: float, shade: float, title: str) -> Markup:
    place = f'x="{x:.1f}" y="{y}" width="{COLUMN_PX - 3}" height="{ROW_PX - 3}" rx="3"'
    if not shade:
        return Markup(f'<rect {place} class="none"/>')
    return Markup(f'<rect {place} class="heat" fill-opacity="{shade:.2f}"><title>{escape(title)}</title></rect>')


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, text)


def _short(count: int) -> str:
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


def _svg(width: float, height: float, drawn: Sequence[Markup], title: str) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {0:.0f} {1:.0f}" width="{0:.0f}" height="{1:.0f}" role="img" aria-label="{2}">{3}</svg>'
    ).format(width, height, title, Markup("").join(drawn))
