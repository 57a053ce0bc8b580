"""What nearly stands elsewhere, or was taken back, leaves a release: pictures, captions, articles, versions."""

from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests import sources
from tests.pipelines.small_builds import Paper, small_build
from tests.pipelines.test_release import live, release
from tests.quality.test_phash import jpeg, picture, resized

from medloom.pipelines.release import job, links
from medloom.pipelines.release.states import Policy
from medloom.quality.phash import distances, picture_phash, to_bytes
from medloom.schemas.build import Build
from medloom.schemas.release import Release

WORDS = [f"{a}{b}" for a in ("ven", "cor", "pul", "hep", "ren", "neu", "gas", "ost") for b in range(60)]


def copied(seed: int) -> np.ndarray:
    """The picture of that seed as another publisher has it: smaller, compressed."""
    return jpeg(resized(picture(seed), 0.7), 70)


def text(seed: int, n: int = 400) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, n))


def version(seed: int) -> str:
    """The same article, edited: one word in fifty is another."""
    draw = np.random.default_rng(1000 + seed)
    return " ".join(w if draw.random() > 0.02 else "edited" for w in text(seed).split())


def said(made: Release) -> dict[str, str]:
    """Reason by medium."""
    table = made.store.read_table(f"{made.name}/states.parquet")
    return {row["id"]: row["reason"] for row in table.to_pylist() if row["scope"] == "medium"}


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """One build with every way to be near, and its release."""
    caption = text(77, 40)
    made = small_build(
        tmp_path_factory.mktemp("near") / "out",
        Paper("a-original", pictures=[picture(1), picture(2)]),
        Paper("b-copy", pictures=[copied(1)]),
        Paper("c-mirror", pictures=[np.ascontiguousarray(copied(2)[:, ::-1])]),
        Paper("d-train", pictures=[picture(3)]),
        Paper("d-test", split="test", pictures=[255 - copied(3)]),
        Paper("e-yes", pictures=[picture(4)], labels=("yes",)),
        Paper("e-no", pictures=[copied(4)], labels=("no",)),
        Paper("f-twice", pictures=[picture(5), copied(5)]),
        Paper("g-first", pixels=(6,), body=text(6)),
        Paper("g-reprint", pixels=(7,), body=version(6)),
        Paper("h-train", pixels=(8,), body=text(8)),
        Paper("h-preprint", split="validation", pixels=(9,), body=version(8)),
        Paper("i-train", pixels=(10,), text=caption),
        Paper("i-test", split="test", pixels=(11,), text=caption + " (continued)"),
        Paper("j-one", pixels=(12,), text=text(78, 40)),
        Paper("j-two", pixels=(13,), text=text(78, 40)),
        Paper("k-alone", pictures=[picture(14)], body=text(14)),
        Paper("l-one", pixels=(15,), body=text(15), labels=("yes",)),
        Paper("l-two", pixels=(16,), body=version(15), labels=("no",)),
    )
    return made, release(made.url, to=f"{made.url}/releases")


def test_each_way_to_be_near_withholds_what_it_should_and_nothing_else(varied):
    assert said(varied[1]) == {
        "b-copy-f1": "near_duplicate.image",
        "c-mirror-f1": "near_duplicate.image",
        "d-train-f1": "near_duplicate.across_splits",
        "g-reprint-f1": "near_duplicate.text",
        "h-train-f1": "near_duplicate.across_splits",
        "i-train-f1": "near_duplicate.across_splits",
    }
    assert live(varied[1]) == [
        "a-original-f1", "a-original-f2", "d-test-f1", "e-no-f1", "e-yes-f1", "f-twice-f1", "f-twice-f2", "g-first-f1",
        "h-preprint-f1", "i-test-f1", "j-one-f1", "j-two-f1", "k-alone-f1", "l-one-f1", "l-two-f1",
    ]  # fmt: skip


def test_the_examples_of_a_reprint_leave_with_its_pictures(varied):
    made, found = varied
    states = found.store.read_table("0001/states.parquet").to_pylist()
    examples = {row["id"]: row["reason"] for row in states if row["scope"] == "example"}
    assert examples == {
        made.caption("g-reprint-f1"): "near_duplicate.text",
        made.caption("h-train-f1"): "near_duplicate.across_splits",
    }


def test_the_reasons_are_counted_and_the_rules_kept(varied):
    facts = varied[1].facts
    assert facts["counts"]["withheld"] == {
        "near_duplicate.across_splits": 4, "near_duplicate.image": 2, "near_duplicate.text": 2, "terms.unknown": 1,
    }  # fmt: skip
    assert facts["policy"]["near_duplicates"] is True
    assert facts["rules"]["near"]["phash"]["distance"] > 0
    assert release(varied[0].url, to=varied[1].url).number == 1


def test_a_policy_can_leave_near_duplicates_alone(varied, tmp_path):
    found = release(varied[0].url, to=str(tmp_path / "rel"), near_duplicates=False)
    assert said(found) == {}


def test_what_is_linked_does_not_hang_on_the_order_of_builds(tmp_path):
    a = small_build(
        tmp_path / "a", Paper("one", pictures=[picture(1)]), Paper("x", split="test", pictures=[picture(2)])
    )
    b = small_build(tmp_path / "b", Paper("two", pictures=[copied(1)]), Paper("y", pictures=[copied(2)]))
    first = said(release(a.url, b.url, to=str(tmp_path / "ab")))
    other = said(release(b.url, a.url, to=str(tmp_path / "ba")))
    assert first == {"two-f1": "near_duplicate.image", "y-f1": "near_duplicate.across_splits"}
    assert other == {"one-f1": "near_duplicate.image", "y-f1": "near_duplicate.across_splits"}


def test_the_same_pixels_are_an_exact_duplicate_and_not_a_near_one_too(tmp_path):
    made = small_build(
        tmp_path / "out", Paper("one", pictures=[picture(1)]), Paper("two", pictures=[picture(1)]),
        Paper("three", pictures=[copied(1)]),
    )  # fmt: skip
    assert said(release(made.url, to=str(tmp_path / "rel"))) == {
        "three-f1": "near_duplicate.image", "two-f1": "duplicate.exact",
    }  # fmt: skip


def test_short_captions_and_forms_and_empty_bodies_link_nothing(tmp_path):
    """A form is a long caption of more articles than can be copies of each other: PRISMA's diagram, a journal's."""
    form = "PRISMA flow diagram of the study selection from " + text(5, 40)
    papers = [Paper(f"s{i:03d}", pixels=(i,), text="Supplementary figure") for i in range(30)]
    papers += [Paper(f"t{i:03d}", pixels=(100 + i,), text=form, split="test" if i % 5 == 0 else "train")
               for i in range(30)]  # fmt: skip
    papers += [Paper(f"e{i}", pixels=(200 + i,), text="", body=body) for i, body in enumerate(["", "", "word", "word"])]
    made = small_build(tmp_path / "out", *papers)
    assert said(release(made.url, to=str(tmp_path / "rel"))) == {}


def banded(bands: list[int], nodes: list[str], batch: int) -> list[pa.RecordBatch]:
    """Rows as one task of Spark sees them: by band and node, with how many share the band, some at a time."""
    rows = sorted(zip(bands, nodes, strict=True))
    count = Counter(bands)
    table = pa.table({
        "band": pa.array([b for b, _ in rows], pa.int64()), "node": [n for _, n in rows],
        "n": pa.array([count[b] for b, _ in rows], pa.int64()),
    })  # fmt: skip
    return table.to_batches(max_chunksize=batch)


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 1000])
def test_all_pairs_of_a_band_are_seen_once_however_the_rows_are_cut(batch):
    draw = np.random.default_rng(0)
    bands = draw.integers(0, 40, 300).tolist()
    nodes = [f"{i:04d}" for i in draw.permutation(300)]
    seen = [
        pair for one, other in links._neighbours(banded(bands, nodes, batch)) for pair in zip(one, other, strict=True)
    ]
    of = dict(zip(nodes, bands, strict=True))
    assert sorted(seen) == [(a, b) for a, b in combinations(sorted(nodes), 2) if of[a] == of[b]]


@pytest.mark.parametrize("batch", [100, 10_000])
def test_a_crowd_of_ten_thousand_costs_its_size_and_is_told_once(batch):
    nodes = [f"{i:05d}" for i in range(10_000)]
    seen = [
        pair
        for one, other in links._neighbours(banded([7] * 10_000, nodes, batch))
        for pair in zip(one, other, strict=True)
    ]
    assert [pair for pair in seen if pair[1] is None] == [("00000", None)]
    pairs = [(int(a), int(b)) for a, b in seen if b is not None]
    assert len(pairs) == len(set(pairs)) == 10_000 * links.WINDOW - links.WINDOW * (links.WINDOW + 1) // 2
    assert {b - a for a, b in pairs} == set(range(1, links.WINDOW + 1))


def test_pictures_and_texts_of_one_band_are_never_linked():
    hashes = [picture_phash(picture(seed)) for seed in (1, 1, 2)]
    one = [hashes[0], hashes[0], hashes[0], "caption:1", "caption:1", "article:1", "caption:1"]
    other = [hashes[2], "caption:1", None, "caption:2", "article:1", None, hashes[0]]
    assert links._same(one, other).tolist() == [False, False, True, True, False, True, False]
    assert links._same([hashes[0]], [picture_phash(copied(1))]).tolist() == [True]


def test_what_its_source_took_back_leaves_for_good_and_an_older_version_waits(tmp_path):
    made = small_build(
        tmp_path / "out",
        Paper("pmc1-1", group="pmc1", pmcid="PMC1", version=1, pixels=(1,)),
        Paper("pmc1-2", group="pmc1", pmcid="PMC1", version=2, pixels=(2,)),
        Paper("pmc2-1", pmcid="PMC2", version=1, pixels=(3,)),
        Paper("pmc3-1", pmcid="PMC3", version=1, pixels=(4,)),
        Paper("pmc4-1", pmcid="PMC4", version=1, pixels=(5,)),
        withdrawn={"pmc2-1": "article.withdrawn", "pmc3-1": "article.superseded"},
    )
    found = release(made.url, to=str(tmp_path / "rel"))
    states = found.store.read_table("0001/states.parquet").to_pylist()
    units = {row["id"]: (row["scope"], row["state"], row["reason"]) for row in states if row["scope"] != "query"}
    assert units == {
        "pmc1-1-f1": ("medium", "withheld", "article.superseded"),
        "pmc2-1-f1": ("medium", "withdrawn", "article.withdrawn"),
        "pmc3-1-f1": ("medium", "withheld", "article.superseded"),
        made.caption("pmc1-1-f1"): ("example", "withheld", "article.superseded"),
        made.caption("pmc2-1-f1"): ("example", "withdrawn", "article.withdrawn"),
        made.caption("pmc3-1-f1"): ("example", "withheld", "article.superseded"),
    }
    assert live(found) == ["pmc1-2-f1", "pmc4-1-f1"]


def test_a_newer_version_in_another_build_supersedes(tmp_path):
    a = small_build(tmp_path / "a", Paper("pmc1-1", group="pmc1", pmcid="PMC1", version=1, pixels=(1,)))
    b = small_build(tmp_path / "b", Paper("pmc1-2", group="pmc1", pmcid="PMC1", version=2, pixels=(2,)))
    assert live(release(a.url, b.url, to=str(tmp_path / "rel"))) == ["pmc1-2-f1"]


def test_a_notice_takes_back_the_article_that_it_names(tmp_path):
    made = small_build(
        tmp_path / "out",
        Paper("pmc1-1", group="pmc1", pmcid="PMC1", pixels=(1,)),
        Paper("pmc2-1", group="pmc2", pmcid="PMC2", pixels=(2,)),
        Paper("pmc3-1", group="pmc3", pmcid="PMC3", pixels=(3,), retracts=["PMC2"]),
    )  # fmt: skip
    assert live(release(made.url, to=str(tmp_path / "rel"))) == ["pmc1-1-f1", "pmc3-1-f1"]


def test_what_has_gone_takes_nobodys_place(tmp_path):
    """The figure of a retracted or withdrawn article does not keep its copy elsewhere out of a release."""
    made = small_build(
        tmp_path / "out",
        Paper("a-retracted", is_retracted=True, pictures=[picture(1)], body=text(1)),
        Paper("b-republished", pictures=[copied(1)], body=version(1)),
        Paper("c-withdrawn", split="test", pixels=(3,)),
        Paper("d-same", pixels=(3,)),
        withdrawn={"c-withdrawn": "article.withdrawn"},
    )
    assert live(release(made.url, to=str(tmp_path / "rel"))) == ["b-republished-f1", "d-same-f1"]


def test_mirrored_and_inverted_copies_are_found_from_files_to_release(tmp_path):
    """A whole build: one picture, shown by four articles in four ways, and no other, is left in one place."""
    sources.write_papers(tmp_path / "source" / "papers", 8)
    shown = {1: picture(1), 2: copied(1)[:, ::-1], 4: 255 - copied(1)[::-1], 7: np.rot90(resized(picture(1), 1.3))}
    for number, pixels in shown.items():
        file = min(f for f in (tmp_path / "source").rglob(f"*a{number:03d}*") if f.suffix in (".png", ".jpg"))
        Image.fromarray(np.ascontiguousarray(pixels)).save(file)
    recipe = sources.write_recipe(tmp_path / "papers.py", sources='(Papers("papers", source + "/papers"),)')
    sources.build(tmp_path / "out", recipe, tmp_path / "source")
    index = Build(str(tmp_path / "out")).index(columns=["key", "field", "split", "phash"]).to_pylist()
    hashes = {row["key"]: row["phash"] for row in index if row["phash"]}
    alike = [key for key in hashes if distances(*map(to_bytes, ([hashes[key]], [picture_phash(picture(1))])))[0] <= 52]
    assert len(alike) == 4 < len(hashes)
    found = release(str(tmp_path / "out"), to=str(tmp_path / "rel"))
    near = {key: why for key, why in said(found).items() if why.startswith("near_duplicate")}
    others = {key for key, why in said(found).items() if why == "terms.unknown"}  # no licence: out of the contest
    alike = [key for key in alike if key not in others]
    (kept,) = set(alike) - near.keys()
    assert len(near) >= 2
    assert near.keys() == set(alike) - {kept}
    splits = {row["key"]: row["split"] for row in index}
    assert near == {
        key: "near_duplicate.image" if splits[key] == splits[kept] else "near_duplicate.across_splits" for key in near
    }


def test_clusters_are_the_same_in_any_order_of_links():
    pairs = [("d", "c"), ("a", "b"), ("b", "c"), ("x", "y"), ("a", "d")]
    tables = []
    for order in (pairs, pairs[::-1], [(b, a) for a, b in pairs]):
        found = links.Clusters()
        joined = [found.join(*pair) for pair in order]
        assert joined.count(False) == 1  # five links, six names, two clusters: one link was not needed
        tables.append(found.table().to_pylist())
    assert tables[0] == tables[1] == tables[2]
    assert {row["node"]: row["cluster"] for row in tables[0]} == dict.fromkeys("abcd", "a") | dict.fromkeys("xy", "x")


def test_a_long_chain_of_links_is_joined_in_a_moment():
    found = links.Clusters()
    for i in range(100_000, 0, -1):
        found.join(f"{i:06d}", f"{i - 1:06d}")
    assert set(found.table()["cluster"].to_pylist()) == {"000000"}


def test_a_release_of_policies_with_names_keeps_them(tmp_path: Path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,)))
    found = job.make_release([made.url], str(tmp_path / "rel"), policy=Policy(), master="local[2]")
    assert found.facts["policy"] == {"commercial": False, "checks": True, "duplicates": True, "near_duplicates": True}
