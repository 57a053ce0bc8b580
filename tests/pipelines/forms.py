"""Papers with everything that the forms of others must carry or leave out, and releases of them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests import sources

from medloom.pipelines.release import job
from medloom.pipelines.release.states import Policy
from medloom.schemas.release import Release

TEXT = (
    "A 54-year-old man — call him β — had pain < 3 days (Fig. 1A). The scan \U0001f600 showed two masses (Figs. 1 and "
    "2). Figure 2 was repeated.\n\nLater films (Figs 1–3) were clear. He went home.\n\nFirst, rest (Figure 3)."
)
SAID = [  # the words that mean each picture, in order
    ("F1", "Fig. 1A"), ("F1", "Figs. 1 and 2"), ("F2", "Figs. 1 and 2"), ("F2", "Figure 2"), ("F1", "Figs 1–3"),
    ("F2", "Figs 1–3"), ("F3", "Figs 1–3"), ("F3", "Figure 3"),
]  # fmt: skip
STAYS_OUT = ("Abstract words", "Caption words", "Table words", "Case of the man", "Nobody", "cited works")
CC_BY = sources.LICENCES[0]
_RICH = """<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="case-report" xml:lang="en"><front>
<journal-meta><journal-title-group><journal-title>Rich Cases</journal-title></journal-title-group></journal-meta>
<article-meta>ID<article-id pub-id-type="pmid">31</article-id>
<title-group><article-title>Rich case</article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>Nobody</surname><given-names>N</given-names></name>
</contrib></contrib-group><pub-date pub-type="epub"><day>3</day><month>5</month><year>2021</year></pub-date>
<permissions>LICENCE</permissions><abstract><p>Abstract words stay out (Figure 1).</p></abstract>
</article-meta></front><body><sec><title>Case of the man</title>
<p>A 54-year-old man — call him β — had pain &lt; 3 days (<xref ref-type="fig" rid="F1">Fig. 1</xref>A).
The scan \U0001f600 showed two masses (<xref ref-type="fig" rid="F1 F2">Figs. 1 and 2</xref>). Figure 2
was repeated.</p>
<fig id="F1"><label>Figure 1.</label><caption><title>Caption words one.</title><p>(A) Left view. (B) Right view.</p>
</caption><graphic xlink:href="STEM-g1"/></fig>
<fig id="F2"><label>Figure 2.</label><caption><p>Caption words two.</p></caption><graphic xlink:href="STEM-g2.jpg"/>
<permissions><license xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"><license-p>This figure is under CC
BY-NC 4.0.</license-p></license></permissions></fig>
<table-wrap id="T1"><caption><p>Table words (Figure 1).</p></caption><table><tr><td>1</td></tr></table></table-wrap>
<p>Later films (<xref ref-type="fig" rid="F1">Figs 1</xref>–<xref ref-type="fig" rid="F3">3</xref>) were clear. He
went home.</p><list><list-item><p>First, rest (Figure 3).</p></list-item></list>
<fig id="F3"><label>Figure 3.</label><caption><p>Caption words three.</p></caption><graphic xlink:href="STEM-g3"/></fig>
</sec></body><back><ref-list><ref><mixed-citation>cited works</mixed-citation></ref></ref-list></back></article>
"""


def write_rich(folder: Path, stem: str, ids: str, *, licence: str = CC_BY, seed: int = 0) -> None:
    """Write the rich article and its three pictures: a JPEG, a grey JPEG, a PNG with alpha."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _RICH.replace("STEM", stem).replace("ID", ids, 1).replace("LICENCE", licence)
    (folder / f"{stem}.xml").write_text(text)
    (folder / f"{stem}-g1.jpg").write_bytes(sources.picture_bytes(seed + 1, "jpg", size=80))
    noise = np.random.default_rng(seed).integers(0, 255, (90, 70, 4), np.uint8)
    for name, image in (("g2.jpg", Image.fromarray(noise[:, :, 0])), ("g3.png", Image.fromarray(noise))):
        file = io.BytesIO()
        image.save(file, "JPEG" if name.endswith("jpg") else "PNG")
        (folder / f"{stem}-{name}").write_bytes(file.getvalue())


def write_source(folder: Path) -> Path:
    """Write the ordinary papers of `sources`, large enough for every check, and rich ones under several names."""
    sources.write_papers(folder, 6)
    for picture in (*folder.rglob("*.png"), *folder.rglob("*.jpg")):
        seed = 5000 + int(picture.stem[1:4]) * 10 + int(picture.stem[-1])
        picture.write_bytes(sources.picture_bytes(seed, picture.suffix[1:], size=80))
    write_rich(folder, "rich", '<article-id pub-id-type="pmcid-ver">PMC9100001.2</article-id>', seed=100)
    write_rich(folder, "doi", '<article-id pub-id-type="doi">10.9999/rich</article-id>', seed=200)
    nd = CC_BY.replace("/by/", "/by-nd/").replace("Attribution License", "Attribution-NoDerivatives License")
    write_rich(folder, "nd", '<article-id pub-id-type="pmc">9100003</article-id>', licence=nd, seed=300)
    return folder


def released(out: Path, source: Path, recipe: str = "pmc_inline", **settings: Any) -> Release:
    """Build a folder of papers and release the build; only terms and retractions withhold."""
    sources.build(out, recipe, source, **settings)
    policy = Policy(checks=False, duplicates=False, near_duplicates=False)
    return job.make_release([str(out)], f"{out}/releases", policy=policy, master="local[2]")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
