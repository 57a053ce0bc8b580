"""Many small papers, synthetic: two sections and a figure each, written fast; equal calls give equal bytes."""

import struct
import zlib
from pathlib import Path

WORDS = [
    "lesion", "margin", "vessel", "lobe", "signal", "contrast", "oedema", "nodule", "cortex", "marrow", "septum",
    "lumen", "fascia", "tendon", "pleura", "hilum",
]  # fmt: skip
PER_FOLDER = 500
ARTICLE = """<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="{kind}"><front><article-meta>
<article-id pub-id-type="pmc">{pmcid}</article-id><title-group><article-title>{title}</article-title></title-group>
<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>Open access under the
Creative Commons Attribution License.</license-p></license></permissions></article-meta></front><body>
<sec><title>Case presentation</title><p>{a} The scan (<xref ref-type="fig" rid="f1">Figure 1A</xref>) shows it. {b}</p>
</sec><sec><title>Discussion</title><p>{b} As <xref ref-type="fig" rid="f1">Fig. 1</xref> makes plain, {a}</p></sec>
</body><floats-group><fig id="f1"><label>Figure 1</label><caption><title>The {word} of {pmcid}.</title>
<p>(A) Before. (B) After.</p></caption><graphic xlink:href="pmc{pmcid}-f1.png"/></fig></floats-group></article>
"""


def write(folder: Path, n: int, *, first: int = 0) -> None:
    """Write articles `first` to `first + n`, each with its figure file beside it, 500 to a folder."""
    for number in range(first, first + n):
        pmcid = 7_000_000 + number
        into = folder / f"{number // PER_FOLDER:04d}"
        if number % PER_FOLDER == 0 or number == first:
            into.mkdir(parents=True, exist_ok=True)
        word = WORDS[number % len(WORDS)]
        text = ARTICLE.format(
            pmcid=pmcid, word=word, kind="case-report" if number % 10 == 0 else "research-article",
            title=f"A {word} in study {number}", a=_sentence(number), b=_sentence(number * 7 + 3),
        )  # fmt: skip
        (into / f"PMC{pmcid}.xml").write_text(text)
        (into / f"pmc{pmcid}-f1.png").write_bytes(_png(number))


def _sentence(seed: int) -> str:
    words = []
    for _ in range(24):
        seed = (seed * 1_103_515_245 + 12_345) % (1 << 31)
        words.append(WORDS[(seed >> 8) % len(WORDS)] + (str(seed >> 20) if seed % 5 == 0 else ""))
    return " ".join(words).capitalize() + "."


def _png(number: int) -> bytes:
    """Return a grey PNG of 64 x 64 pixels, another for every number."""
    rows = bytearray()
    for y in range(64):
        rows.append(0)
        rows += bytes(
            ((x * (number % 97 + 1) + y * (number % 89 + 3) + number * (x ^ y)) >> 2) & 0xFF for x in range(64)
        )
    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 1)), (b"IEND", b""))
    made = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)
