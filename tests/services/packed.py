"""Archives of the retired PMC layout, made of small synthetic articles; equal arguments give equal bytes."""

import csv
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from tests.services.articles import Article


def tar_gz(files: Iterable[tuple[str, bytes] | tarfile.TarInfo]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for file in files:
            if isinstance(file, tarfile.TarInfo):
                tar.addfile(file)
                continue
            info = tarfile.TarInfo(file[0])
            info.size = len(file[1])
            tar.addfile(info, io.BytesIO(file[1]))
    return held.getvalue()


def image(stem: str, ending: str = "jpg") -> bytes:
    """Return bytes that begin as a picture of that kind does, others for each name."""
    starts = {"jpg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a", "tif": b"II*\0"}
    return starts[ending] + f"{stem}.{ending} ".encode() * 50


def package_files(article: Article, *, jats: str = "paper.nxml") -> list[tuple[str, bytes]]:
    """Return a package's members as the old service laid them out: pictures twice, a PDF and a supplement too."""
    folder = article.pmcid
    stems = [stem for stem, _ in article.figures]
    files = [(f"{folder}/{stem}.{ending}", image(stem, ending)) for stem in stems for ending in ("gif", "jpg")]
    return [
        (f"{folder}/paper.pdf", b"%PDF-1.4"),
        (f"{folder}/{jats}", article.xml()),
        *files,
        (f"{folder}/equation-1.gif", image("equation-1", "gif")),
        (f"{folder}/supplement.xlsx", b"PK"),
    ]


def write_package(root: Path, article: Article) -> Path:
    """Write `oa_package/08/e0/PMCn.tar.gz`."""
    path = root / f"oa_package/{article.number % 100:02d}/e0/{article.pmcid}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_gz(package_files(article)))
    return path


VOLUME = "oa_bulk/oa_comm/xml/oa_comm_xml.PMC000xxxxxx.baseline.2025-12-18"


def write_volume(root: Path, articles: Iterable[Article], *, name: str = VOLUME, retracted: Iterable[int] = ()) -> Path:
    """Write a volume of articles' XML, and its list, with `retracted` numbers marked."""
    articles = list(articles)
    path = root / f"{name}.tar.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_gz((f"PMC000xxxxxx/{article.pmcid}.xml", article.xml()) for article in articles))
    rows = [
        [f"PMC000xxxxxx/{a.pmcid}.xml", "J. 2025", a.pmcid, "2025-01-01 00:00:00", "", a.licence or "NO-CC CODE",
         "yes" if a.number in set(retracted) else "no"]
        for a in articles
    ]  # fmt: skip
    columns = [
        "Article File",
        "Article Citation",
        "AccessionID",
        "Last Updated UTC (YYYY-MM-DD HH:MM:SS)",
        "PMID",
        "License",
    ]
    write_csv(root / f"{name}.filelist.csv", [[*columns, "Retracted"], *rows])
    return path


def write_oa_file_list(root: Path, articles: Iterable[Article]) -> Path:
    """Write `oa_file_list.csv` over packages."""
    columns = ["File", "Article Citation", "Accession ID", "Last Updated (YYYY-MM-DD HH:MM:SS)", "PMID", "License"]
    rows = [
        [f"oa_package/{a.number % 100:02d}/e0/{a.pmcid}.tar.gz", "J. 2001; 3(1):5", a.pmcid, "2019-11-05 11:56:12",
         "", a.licence or "NO-CC CODE"]
        for a in articles
    ]  # fmt: skip
    return write_csv(root / "oa_file_list.csv", [columns, *rows])


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path
