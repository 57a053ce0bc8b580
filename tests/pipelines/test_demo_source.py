"""The source folder of the recipe `demo`."""

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from lxml import etree
from PIL import Image

from medloom.connectors.jats import parse_article
from medloom.pipelines.recipes.demo_figures import PLATES
from medloom.pipelines.recipes.demo_source import MARK, TISSUES, _file, prepare
from medloom.schemas.errors import ConfigError
from medloom.schemas.origin import TERMS

HREF = "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "source"
    prepare(folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def case_reports(source: Path) -> dict[str, etree._Element]:
    return {path.name: etree.parse(path).getroot() for path in sorted((source / "case_reports").glob("*.xml"))}


def test_two_folders_are_equal_byte_for_byte(source, tmp_path):
    prepare(tmp_path / "again")
    first = digests(source)
    assert first == digests(tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["again"]  # nothing is left beside it
    assert sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) < 60e6
    assert len(first) > 200


def test_a_folder_that_stands_is_left_alone_and_an_older_one_is_replaced(tmp_path):
    folder = tmp_path / "source"
    prepare(folder)
    article = next((folder / "articles").glob("*.xml"))
    before = article.stat().st_mtime_ns
    prepare(folder)
    assert article.stat().st_mtime_ns == before
    article.unlink()
    (folder / MARK).write_text("layout 0\n")
    prepare(folder)
    assert article.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_every_file_has_a_record_with_its_digest_and_known_terms(source):
    known = digests(source)
    for name in ("articles", "case_reports", "scans"):
        records = json.loads((source / name / "SOURCES.json").read_text())
        files = {str(path.relative_to(source / name)) for path in (source / name).rglob("*") if path.is_file()}
        assert files - set(records) <= {"SOURCES.json", "modalities.json"}
        for path, record in records.items():
            assert record["sha256"] == known[f"{name}/{path}"]
            assert record["terms_id"] in TERMS
            assert record["version"]
            assert record["attribution"]


def test_every_figure_of_a_case_report_is_there_and_every_image_is_a_figure(source):
    reports = case_reports(source)
    assert 8 <= len(reports) <= 10
    hrefs = [graphic.get(HREF) for root in reports.values() for graphic in root.iter("graphic")]
    images = {path.name for path in (source / "case_reports").iterdir() if path.suffix in (".png", ".jpg")}
    assert set(hrefs) == images == set(PLATES)
    assert len(hrefs) == len(set(hrefs))
    for name in images:
        with Image.open(source / "case_reports" / name) as image:
            assert image.format == {".png": "PNG", ".jpg": "JPEG"}[Path(name).suffix]
            assert min(image.size) >= 200
            assert np.asarray(image).std() > 15  # something is shown


def test_case_reports_say_that_they_are_synthetic_and_under_which_terms(source):
    for name, root in case_reports(source).items():
        assert root.get("article-type") == "synthetic-case-report", name
        assert "synthetic" in root.findtext(".//article-title")
        assert root.findtext(".//custom-meta[meta-name='synthetic']/meta-value").startswith("yes")
        assert root.find(".//license").get(HREF).endswith("/publicdomain/zero/1.0/")


def test_case_reports_cite_every_figure_in_words(source):
    for name, root in case_reports(source).items():
        figures = {fig.get("id") for fig in root.iter("fig")}
        cited = [set(xref.get("rid").split()) for xref in root.iter("xref")]
        assert set().union(*cited) == figures, name
        assert any(len(rids) > 1 for rids in cited), name  # "Figs 1 and 2"
        for xref in root.iter("xref"):
            assert xref.text.startswith(("Fig", "Figs"))


def test_case_reports_read_as_jats(source):
    """What the reader makes of them: licence, case report, captions, panels, and every mention joined to a figure."""
    for path in sorted((source / "case_reports").glob("*.xml")):
        tables = parse_article(path.read_bytes(), source="demo")
        article = tables["article"][0]
        assert (article["terms_id"], article["is_case_report"], article["licence_conflict"]) == ("cc0-1.0", True, False)
        figures = {figure["fig_key"]: figure for figure in tables["figure"]}
        assert all(len(figure["caption"]) > 60 for figure in figures.values())
        assert {len(figure["panels"]) for figure in figures.values()} <= {0, 2}
        assert {key for mention in tables["mention"] for key in mention["fig_keys"]} == set(figures), path.name
        assert {mention["status"] for mention in tables["mention"]} == {"resolved"}, path.name


def test_figures_under_terms_of_their_own_are_not_taken_for_ours(source):
    def terms(name: str) -> list[str]:
        tables = parse_article((source / "case_reports" / name).read_bytes(), source="demo")
        return [figure["terms_id"] for figure in tables["figure"]]

    assert terms("medloom-cr-009.xml") == ["", "", "reproduced-with-permission"]  # the template's notice
    assert terms("medloom-cr-008.xml") == ["cc-by"] * 3


def test_modalities_are_those_of_the_headers(source):
    stated = json.loads((source / "case_reports" / "modalities.json").read_text())
    assert stated.keys() == PLATES.keys()
    for name, plate in PLATES.items():
        for panel in plate.panels:
            if panel.scan.endswith(".dcm"):
                assert pydicom.dcmread(_file(panel.scan), stop_before_pixels=True).Modality == stated[name], name


@pytest.mark.parametrize(
    ("figure", "scan"),
    [
        ("medloom-cr-001-f1.png", "pydicom:CT_small.dcm"),
        ("medloom-cr-002-f1.png", "pydicom-data:MR2_J2KR.dcm"),
        ("medloom-cr-007-f1.png", "pydicom-data:MR-SIEMENS-DICOM-WithOverlays.dcm"),
        ("medloom-cr-009-f1.png", "pydicom:J2K_pixelrep_mismatch.dcm"),
    ],
)
def test_captions_state_the_thickness_and_spacing_of_the_header(source, figure, scan):
    header = pydicom.dcmread(_file(scan), stop_before_pixels=True)
    graphic = next(g for root in case_reports(source).values() for g in root.iter("graphic") if g.get(HREF) == figure)
    caption = "".join(graphic.getparent().find("caption").itertext())
    assert f"{float(header.SliceThickness):g} mm thick" in caption
    spacing_mm = float(header.PixelSpacing[0])
    assert any(f"of {spacing_mm:.{digits}f} mm" in caption for digits in (1, 2))


def test_panels_lie_in_their_scans_and_arrows_in_their_panels():
    for name, plate in PLATES.items():
        for panel in plate.panels:
            if panel.scan.endswith(".dcm") and (panel.box or panel.arrow):
                header = pydicom.dcmread(_file(panel.scan), stop_before_pixels=True)
                y0, x0, y1, x1 = panel.box or (0, 0, header.Rows, header.Columns)
                assert 0 <= y0 < y1 <= header.Rows, name
                assert 0 <= x0 < x1 <= header.Columns, name
                if panel.arrow:
                    assert y0 <= panel.arrow[0] < y1, name
                    assert x0 <= panel.arrow[1] < x1, name


def test_the_series_of_neighbouring_slices_is_whole(source):
    headers = [pydicom.dcmread(p) for p in sorted((source / "scans/dicom/98892001/CT5N").iterdir())]
    assert len({str(h.SeriesInstanceUID) for h in headers}) == 1
    positions = sorted(float(h.ImagePositionPatient[2]) for h in headers)
    assert np.allclose(np.diff(positions), 2.5)


def test_tissues_lie_on_the_template_and_make_a_brain(source):
    template = nibabel.load(source / "scans/nifti/mni_t1.nii.gz")
    tissues = nibabel.load(source / "scans/nifti/mni_t1_tissues.nii.gz")
    labels = np.asarray(tissues.dataobj)
    assert tissues.shape == template.shape
    assert np.allclose(tissues.affine, template.affine)
    assert set(np.unique(labels)) == {0, *TISSUES}
    # Voxels are 1 mm³: labels take about the volume that the maps' probabilities add up to.
    for value, tissue in ((1, "gm"), (2, "wm")):
        chance = (
            nibabel.load(_file(f"nilearn:mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")).get_fdata() / 255
        )
        assert (labels == value).sum() == pytest.approx(chance.sum(), rel=0.1)
    # On T1 white matter is brighter than grey matter, which is brighter than what is neither.
    shown = np.asarray(template.dataobj)
    means = [shown[labels == value].mean() for value in (0, 1, 2)]
    assert means[0] < means[1] < means[2]
