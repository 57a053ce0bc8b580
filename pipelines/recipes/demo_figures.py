"""The figures of the demo's case reports, drawn from real scans that packages carry; captions say what is drawn."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Point = tuple[int, int]  # (row, column) in pixels of the scan as shown


@dataclass(frozen=True)
class Panel:
    """One view of one scan.

    Attributes:
        scan: "package:file", see `medloom.pipelines.recipes.demo_source`.
        window: (centre, width) in stored units after rescaling; () takes the 1st to 99.5th percentile of the scan.
        box: (y0, x0, y1, x1), half-open, of the scan as shown; () for all of it.
        arrow: pixel of the scan as shown that an arrow points to; () for none.
        mirrored, flipped: the scan is shown left-right or top-bottom reversed.
        inverted: stored values grow towards black (MONOCHROME1, or a bone scan shown dark on white).
        outlined: the outline that the file carries as an overlay is drawn.
        axial: index along z of a NIfTI volume.
    """

    scan: str
    window: tuple[int, int] | tuple[()] = ()
    box: tuple[int, int, int, int] | tuple[()] = ()
    arrow: Point | tuple[()] = ()
    mirrored: bool = False
    flipped: bool = False
    inverted: bool = False
    outlined: bool = False
    axial: int = -1


@dataclass(frozen=True)
class Plate:
    """A figure: panels side by side at one height, lettered A, B, … when there are several."""

    modality: str
    panels: tuple[Panel, ...]
    height_px: int = 512


_SPINE, _SHOULDER, _CHEST = "pydicom:CT_small.dcm", "pydicom-data:MR2_J2KR.dcm", "pydicom-data:RG1_J2KR.dcm"
_LEG, _NODE, _BONES = "pydicom-data:RG3_J2KR.dcm", "pydicom-data:US1_J2KR.dcm", "pydicom-data:JPEG-LL.dcm"
_LIVER, _ABDOMEN = "pydicom-data:MR-SIEMENS-DICOM-WithOverlays.dcm", "pydicom-data:explicit_VR-UN.dcm"
_HEAD, _TEMPLATE = "pydicom:J2K_pixelrep_mismatch.dcm", "nilearn:mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_SOFT, _BONE = (40, 400), (400, 1800)

PLATES: dict[str, Plate] = {
    "medloom-cr-001-f1.png": Plate("CT", (Panel(_SPINE, _SOFT),)),
    "medloom-cr-001-f2.png": Plate(
        "CT", (Panel(_SPINE, _BONE), Panel(_SPINE, _BONE, box=(20, 26, 84, 90), arrow=(43, 58)))
    ),
    "medloom-cr-002-f1.png": Plate("MR", (Panel(_SHOULDER, arrow=(400, 400)),), 768),
    "medloom-cr-002-f2.png": Plate(
        "MR", (Panel(_SHOULDER, box=(220, 220, 732, 732)), Panel(_SHOULDER, box=(330, 500, 586, 756)))
    ),
    "medloom-cr-003-f1.jpg": Plate("CR", (Panel(_CHEST, inverted=True, arrow=(870, 1430)),), 768),
    "medloom-cr-003-f2.jpg": Plate(
        "CR",
        (
            Panel(_CHEST, box=(520, 180, 1320, 780), inverted=True),
            Panel(_CHEST, box=(520, 1040, 1320, 1640), inverted=True),
        ),
    ),
    "medloom-cr-004-f1.jpg": Plate("CR", (Panel(_LEG, box=(0, 480, 1760, 1280), inverted=True, mirrored=True),), 768),
    "medloom-cr-004-f2.jpg": Plate(
        "CR", (Panel(_LEG, box=(900, 660, 1500, 1260), inverted=True, mirrored=True, arrow=(1100, 900)),)
    ),
    "medloom-cr-005-f1.jpg": Plate("US", (Panel(_NODE, box=(102, 62, 320, 578)),), 320),
    "medloom-cr-005-f2.jpg": Plate(
        "US", (Panel(_NODE, box=(102, 62, 320, 319)), Panel(_NODE, box=(102, 321, 320, 578)))
    ),
    "medloom-cr-006-f1.jpg": Plate("NM", (Panel(_BONES, inverted=True),), 1024),
    "medloom-cr-006-f2.jpg": Plate(
        "NM",
        (
            Panel(_BONES, box=(570, 40, 690, 200), inverted=True, arrow=(625, 155)),
            Panel(_BONES, box=(400, 180, 520, 256), inverted=True, arrow=(477, 233)),
        ),
    ),
    "medloom-cr-007-f1.png": Plate("MR", (Panel(_LIVER),)),
    "medloom-cr-007-f2.png": Plate(
        "MR",
        (
            Panel(_LIVER, box=(150, 20, 310, 180), outlined=True),
            Panel(_LIVER, box=(150, 20, 310, 180), arrow=(256, 62)),
        ),
    ),
    "medloom-cr-008-f1.png": Plate(
        "CT", (Panel(_ABDOMEN, _SOFT, box=(110, 70, 410, 450), flipped=True, arrow=(335, 180)),)
    ),
    "medloom-cr-008-f2.png": Plate(
        "CT", (Panel(_ABDOMEN, _BONE, flipped=True), Panel(_ABDOMEN, (0, 2000), flipped=True))
    ),
    "medloom-cr-008-f3.png": Plate(
        "CT",
        (
            Panel(_ABDOMEN, _SOFT, box=(260, 150, 380, 250), flipped=True),
            Panel(_ABDOMEN, _SOFT, box=(260, 270, 380, 370), flipped=True),
        ),
    ),
    "medloom-cr-009-f1.png": Plate("CT", (Panel(_HEAD, (40, 100)),)),
    "medloom-cr-009-f2.png": Plate(
        "CT", (Panel(_HEAD, (450, 1500)), Panel(_HEAD, (450, 1500), box=(220, 60, 340, 180), arrow=(292, 116)))
    ),
    "medloom-cr-009-f3.png": Plate("MR", (Panel(_TEMPLATE, axial=85),)),
}


def draw(plate: Plate, files: dict[str, Path], *, format: str) -> bytes:
    """Return a figure as "PNG" or "JPEG" bytes; the same bytes for the same files and Pillow.

    Args:
        files: where each scan that its panels name lies.
    """
    shown = [_panel(panel, files[panel.scan], plate.height_px) for panel in plate.panels]
    gap_px = 6
    width = sum(image.width for image in shown) + gap_px * (len(shown) - 1)
    mode = "RGB" if any(image.mode == "RGB" for image in shown) else "L"
    sheet = Image.new(mode, (width, plate.height_px), "white")
    left = 0
    for letter, image in zip("ABCD", shown, strict=False):
        sheet.paste(image, (left, 0))
        if len(shown) > 1:
            pen = ImageDraw.Draw(sheet)
            pen.rectangle((left, 0, left + 35, 35), fill="black")
            pen.text((left + 18, 18), letter, fill="white", font=ImageFont.load_default(28), anchor="mm")
        left += image.width + gap_px
    out = io.BytesIO()
    sheet.save(out, format, **({"quality": 90} if format == "JPEG" else {}))
    return out.getvalue()


def _panel(panel: Panel, path: Path, height_px: int) -> Image.Image:
    pixels = _grey(panel, path)
    y0, x0, y1, x1 = panel.box or (0, 0, *pixels.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
    scale = height_px / (y1 - y0)
    image = image.resize((round((x1 - x0) * scale), height_px), Image.Resampling.BICUBIC)
    if panel.arrow:
        row, column = panel.arrow
        _arrow(image, ((column - x0 + 0.5) * scale, (row - y0 + 0.5) * scale))
    return image


def _grey(panel: Panel, path: Path) -> np.ndarray:
    """Return the scan as shown: uint8 (Y, X), or (Y, X, 3) for a colour image."""
    if path.name.endswith(".nii.gz"):
        import nibabel

        values = np.asarray(nibabel.load(path).dataobj[:, :, panel.axial], dtype=np.float64).T[::-1]  # type: ignore[attr-defined]
        outline = None
    else:
        import pydicom

        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
        if pixels.ndim == 3:
            return pixels
        values = pixels * float(dataset.get("RescaleSlope") or 1) + float(dataset.get("RescaleIntercept") or 0)
        outline = dataset.overlay_array(0x6000) if panel.outlined else None
    centre, width = panel.window or _percentiles(values)
    grey = np.clip((values - (centre - width / 2)) / width, 0, 1) * 255
    grey = np.where(outline, 255, grey) if outline is not None else grey
    grey = 255 - grey if panel.inverted else grey
    grey = grey[:, ::-1] if panel.mirrored else grey
    return np.round(grey[::-1] if panel.flipped else grey).astype(np.uint8)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (1, 99.5))
    return (low + high) / 2, high - low


def _arrow(image: Image.Image, tip: tuple[float, float]) -> None:
    """Draw a white arrow with a black rim that comes from the lower left and ends at `tip` (x, y)."""
    pen = ImageDraw.Draw(image)
    x, y = tip
    for colour, grow in (("black", 3), ("white", 0)):
        pen.line((x - 60 - grow, y + 60 + grow, x - 12, y + 12), fill=colour, width=6 + 2 * grow)
        head = ((x + grow, y - grow), (x - 26 - 2 * grow, y + 8 + grow), (x - 8 - grow, y + 26 + 2 * grow))
        pen.polygon(head, fill=colour)
