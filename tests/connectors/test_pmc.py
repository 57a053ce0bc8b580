"""The PMC Cloud Service: against a loopback server with its faults, and against a real S3 server."""

import gzip
import json
from collections.abc import Iterator

import httpx
import pytest

from medloom.connectors.http import Http
from medloom.connectors.pmc import ObjectUrl, PmcCloud, is_pmcid, read_metadata, read_object_url
from medloom.connectors.pmc_inventory import newest_report, read_report
from medloom.connectors.rates import Rates
from medloom.schemas.errors import Refused, RetryLater, SourceError
from tests.services.loopback import SLOW_DOWN, Reply, damaged, md5_hex, truncated
from tests.services.pmc import BUCKET, REPORTS, Article, Pmc, plain, pmc_service

MD5 = "0" * 32
PUBLIC = {"x-amz-acl": "public-read"}


@pytest.fixture
def http(tmp_path) -> Iterator[Http]:
    with Http(rates=Rates(tmp_path / "rates"), timeout_s=5.0, attempts=3, longest_wait_s=2.0) as client:
        client.first_wait_s = 0.05
        yield client


@pytest.fixture
def service() -> Iterator[Pmc]:
    with pmc_service(plain(113), plain(11370), plain(11370, version=2), plain(11370, version=10)) as running:
        yield running


@pytest.fixture
def cloud(http, service) -> PmcCloud:
    return PmcCloud(http, service.url)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of a real S3 server that holds a bucket of that name."""
    server_of = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = server_of.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}/{BUCKET}"
    assert httpx.put(url).status_code == 200
    yield url
    server.stop()


def stored(url: str, *articles: Article) -> dict[str, bytes]:
    objects = {key: data for article in articles for key, data in article.objects().items()}
    for key, data in objects.items():
        assert httpx.put(f"{url}/{key}", content=data, headers=PUBLIC).status_code == 200
    return objects


def reason_of(data: bytes, article: str = "PMC5.1") -> str:
    with pytest.raises(Refused) as refused:
        read_metadata(data, article=article)
    return str(refused.value)


def record(**changes: object) -> bytes:
    return json.dumps(json.loads(plain(5).objects()["metadata/PMC5.1.json"]) | changes).encode()


def test_versions_of_an_article_are_listed_and_not_those_of_a_longer_id(cloud, service):
    assert cloud.versions("PMC113") == [1]
    assert cloud.versions("PMC11370") == [1, 2, 10]
    assert cloud.versions("PMC1") == []
    assert service.asked == ["list PMC113.", "list PMC11370.", "list PMC1."]


def test_a_bucket_is_asked_in_virtual_host_style_too(http, service):
    cloud = PmcCloud(http, service.server.url)
    assert cloud.versions("PMC11370") == [1, 2, 10]
    assert cloud.metadata("PMC113.1").content == service.objects["metadata/PMC113.1.json"]
    assert service.server.paths == ["/", "/metadata/PMC113.1.json"]


@pytest.mark.parametrize("page", [1, 2, 5, 1000])
def test_a_listing_of_several_pages_is_whole_and_gives_nothing_twice(http, service, page):
    service.page = page
    keys = [each.key for each in PmcCloud(http, service.url).listing("PMC11370.")]
    assert keys == sorted(k for k in service.objects if k.startswith("PMC11370."))
    assert len(service.asked) == -(-len(keys) // page)


def test_the_client_asks_for_pages_of_its_own_size(http, service):
    cloud = PmcCloud(http, service.url, page=3)
    assert len(list(cloud.listing("PMC113."))) == 5
    assert len(service.asked) == 2


def test_a_listing_whose_pages_do_not_end_is_given_up(http, service):
    body = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>"
    service.server.answer = lambda _: Reply(200, f"{body}</ListBucketResult>".encode())
    with pytest.raises(RetryLater, match="a page without end"):
        list(PmcCloud(http, service.url).listing("PMC1."))


def test_a_page_of_a_proxy_is_no_listing(cloud, service):
    service.server.faults = [Reply(200, b"<html><body>Log in</body></html>"), Reply(200, b"<ListBucketRes")]
    assert cloud.versions("PMC113") == [1]
    service.server.faults = [Reply(200, b"<html><body>Log in</body></html>")] * 3
    with pytest.raises(RetryLater, match="in place of a listing"):
        cloud.versions("PMC113")


def test_slow_down_is_waited_out(cloud, service):
    service.server.faults = [SLOW_DOWN, SLOW_DOWN]
    assert cloud.versions("PMC113") == [1]
    assert len(service.asked) == 3


def test_objects_are_whole_and_of_their_md5(cloud, service, tmp_path):
    key = "PMC113.1/a113-g1.jpg"
    target = ObjectUrl(key, md5_hex(service.objects[key]))
    service.server.faults = [truncated, damaged]
    cloud.download(target, to=tmp_path / "figure")
    assert (tmp_path / "figure").read_bytes() == service.objects[key]
    service.server.faults = [damaged] * 3
    with pytest.raises(Refused, match=r"http\.md5"):
        cloud.get(target, max_bytes=1 << 20)
    with pytest.raises(Refused, match=r"http\.md5"):
        cloud.download(ObjectUrl(key, MD5), to=tmp_path / "other")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["figure"]
    with pytest.raises(Refused, match=r"http\.not_found"):
        cloud.get(ObjectUrl("PMC113.1/", ""), max_bytes=100)


def test_a_record_that_did_not_change_is_not_sent_again(cloud, service):
    first = cloud.metadata("PMC113.1")
    etag = first.headers["etag"].strip('"')
    again = cloud.metadata("PMC113.1", etag=etag)
    assert (first.status, again.status, again.content) == (200, 304, b"")
    service.add(plain(113, said={"is_retracted": True}))
    assert cloud.metadata("PMC113.1", etag=etag).status == 200


def test_a_record_that_was_damaged_on_its_way_is_asked_for_again(cloud, service):
    service.server.faults = [damaged, truncated]
    assert cloud.metadata("PMC113.1").content == service.objects["metadata/PMC113.1.json"]
    assert len(service.asked) == 3
    service.objects["metadata/PMC113.1.json"] = b"{no json"  # as it is at the service: for the reader to refuse
    assert cloud.metadata("PMC113.1").content == b"{no json"


def test_records_are_read_with_their_nulls_and_without_new_keys():
    data = record(doi=None, pmid=None, pdf_url=None, license_code=None, media_urls=None, tomorrow=[1])
    found = read_metadata(data, article="PMC5.1")
    assert (found.doi, found.pmid, found.license_code, found.media()) == (None, None, None, [])
    assert read_metadata(record(pmid=38867410), article="PMC5.1").pmid == "38867410"
    assert read_metadata(record(pmid="38867410", version="1"), article="PMC5.1").version == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"is_retracted": "perhaps"}, "is_retracted: Input should be a valid boolean"),
        ({"is_pmc_openaccess": None}, "is_pmc_openaccess"),
        ({"version": "two"}, "version"),
        ({"version": 0}, "version"),
        ({"pmcid": "../../etc"}, "pmcid"),
        ({"pmcid": "PMC6"}, "the record is that of PMC6.1"),
        ({"media_urls": "s3://x/y"}, "media_urls"),
        ({"license_code": ["CC BY"]}, "license_code"),
    ],
)
def test_a_record_of_other_types_is_refused(changes, says):
    said = reason_of(record(**changes))
    assert said.startswith("pmc.metadata: PMC5.1: ")
    assert says in said


def test_what_is_no_record_is_refused_without_quoting_it():
    for data in (b"", b"<html>", b"[]", b'{"pmcid": "PMC5"}', b'"x"', b"\xff\xfe"):
        assert reason_of(data).startswith("pmc.metadata: ")
    missing = json.loads(record())
    del missing["is_retracted"]
    assert "is_retracted: Field required" in reason_of(json.dumps(missing).encode())


@pytest.mark.parametrize(
    ("url", "key", "md5"),
    [
        (f"s3://b/PMC5.1/a.jpg?md5={'A1' * 16}", "PMC5.1/a.jpg", "a1" * 16),
        ("s3://b/PMC5.1/a b+c#d.jpg", "PMC5.1/a b+c#d.jpg", ""),
        (f"https://b.s3.amazonaws.com/PMC5.1/ü.jpg?x=1&md5={MD5}", "PMC5.1/ü.jpg", MD5),
        ("s3://b/PMC5.1/a.jpg?md5=short", "PMC5.1/a.jpg", ""),
    ],
)
def test_the_md5_is_split_off_an_objects_url(url, key, md5):
    assert read_object_url(url) == ObjectUrl(key, md5)


@pytest.mark.parametrize(
    "url",
    ["", "s3://b/", "s3://b/../x", "s3://b/PMC5.1/../../x", "s3://b/a//b", "file:///etc/passwd", "PMC5.1/a.jpg",
     "s3://b/a\x00b", "s3://b/" + "a" * 1025, "s3://[b/x", "ftp://b/x"],
)  # fmt: skip
def test_a_url_that_could_lead_elsewhere_is_refused(url):
    with pytest.raises(Refused, match=r"pmc\.key"):
        read_object_url(url)


def test_only_what_lies_in_the_articles_own_folder_is_its_media():
    urls = ["s3://b/PMC5.1/a.jpg", "s3://b/PMC5.10/b.jpg", "s3://b/PMC5.1/../PMC6.1/c.jpg", "s3://b/PMC6.1/d.jpg"]
    found = read_metadata(record(media_urls=urls), article="PMC5.1")
    assert [target.key for target in found.media()] == ["PMC5.1/a.jpg"]
    with pytest.raises(Refused, match=r"pmc\.key"):
        read_metadata(record(xml_url="s3://b/PMC6.1/PMC6.1.xml"), article="PMC5.1").xml()
    with pytest.raises(Refused, match=r"pmc\.no_xml"):
        read_metadata(record(xml_url=None), article="PMC5.1").xml()


@pytest.mark.parametrize(("text", "is_one"), [("PMC1", True), ("PMC0", False), ("PMC", False), ("PMC1.1", False)])
def test_pmcids_are_told_from_other_words(text, is_one):
    assert is_pmcid(text) is is_one


def test_a_real_s3_server_gives_the_same(http, moto, tmp_path):
    odd = plain(21, others=("a b+ü&c.jpg",))
    objects = stored(moto, odd, plain(21, version=2), plain(215))
    for cloud in (PmcCloud(http, moto), PmcCloud(http, moto, page=2)):
        assert cloud.versions("PMC21") == [1, 2]
        assert cloud.versions("PMC2") == []
        keys = [each.key for each in cloud.listing("PMC21.")]
        assert keys == sorted(k for k in objects if k.startswith("PMC21."))
    found = cloud.metadata("PMC21.1")
    metadata = read_metadata(found.content, article="PMC21.1")
    for target in (metadata.xml(), *metadata.media()):
        assert cloud.get(target, max_bytes=1 << 20).content == objects[target.key]
        assert cloud.sizes("PMC21.1")[target.key] == len(objects[target.key])
    assert cloud.metadata("PMC21.1", etag=found.headers["etag"].strip('"')).status == 304
    with pytest.raises(Refused, match=r"http\.not_found"):
        cloud.metadata("PMC22.1")
    with pytest.raises(Refused, match=r"http\.md5"):
        cloud.download(ObjectUrl(metadata.xml().key, MD5), to=tmp_path / "x")


def test_both_styles_of_address_name_the_same_object(http):
    assert PmcCloud(http, "http://h/b").address("PMC1.1/a b.jpg") == "http://h/b/PMC1.1/a%20b.jpg"
    assert PmcCloud(http).address("PMC1.1/x") == f"https://{BUCKET}.s3.amazonaws.com/PMC1.1/x"


def versions(cloud: PmcCloud) -> set[tuple[int, int, str]]:
    tables = list(read_report(cloud, newest_report(cloud)))
    return {tuple(row.values()) for table in tables for row in table.to_pylist()}


def test_the_newest_whole_inventory_is_read(cloud, service):
    service.report("2026-09-03T01-00Z")
    service.add(plain(7))
    service.report("2026-09-04T01-00Z", files=3)
    service.objects[f"{REPORTS}/2026-09-05T01-00Z/manifest.json"] = b"{"  # it has no checksum yet
    assert newest_report(cloud).stamp == "2026-09-04T01-00Z"
    records = {k: md5_hex(v) for k, v in service.objects.items() if k.startswith("metadata/")}
    assert {(f"metadata/PMC{pmc}.{version}.json", etag) for pmc, version, etag in versions(cloud)} == set(
        records.items()
    )


def test_an_inventory_of_a_real_s3_server_is_read(http, moto, service):
    service.report("2026-09-04T01-00Z")
    for key, data in service.objects.items():
        if key.startswith("inventory-reports/"):
            assert httpx.put(f"{moto}/{key}", content=data, headers=PUBLIC).status_code == 200
    assert versions(PmcCloud(http, moto)) == versions(PmcCloud(http, service.url))


def with_file(service: Pmc, data: bytes, **changes: object) -> None:
    """Replace the files of the newest report by one."""
    folder = f"{REPORTS}/2026-09-04T01-00Z"
    manifest = json.loads(service.objects[f"{folder}/manifest.json"])
    key = manifest["files"][0]["key"]
    service.objects[key] = data
    manifest["files"] = [{"key": key, "size": len(data), "MD5checksum": md5_hex(data)}]
    body = json.dumps(manifest | changes).encode()
    service.objects[f"{folder}/manifest.json"] = body
    service.objects[f"{folder}/manifest.checksum"] = md5_hex(body).encode()


@pytest.mark.parametrize(
    ("data", "changes", "says"),
    [
        (b"not gzip at all", {}, "is no gzipped CSV"),
        (gzip.compress(b'"b","metadata/PMC1.1.json"\n'), {}, "is no gzipped CSV"),
        (gzip.compress(b'"b","k","d","e"\n')[:-12], {}, "is no gzipped CSV"),
        (b"", {"fileFormat": "ORC"}, "is ORC"),
        (b"", {"fileSchema": "Bucket, Key"}, "with columns 'Bucket, Key'"),
        (b"", {"files": [{"key": "../x", "size": 1, "MD5checksum": MD5}]}, "not plain"),
        (b"", {"files": [{"key": "x", "size": 1, "MD5checksum": "?"}]}, "files.0.MD5checksum"),
    ],
)
def test_an_inventory_of_another_form_is_an_error_of_one_sentence(cloud, service, data, changes, says):
    service.report("2026-09-04T01-00Z")
    with_file(service, data, **changes)
    with pytest.raises(SourceError, match=says):
        versions(cloud)


def test_what_is_no_record_in_an_inventory_is_passed_over(cloud, service):
    service.report("2026-09-04T01-00Z")
    keys = ["metadata/PMC5.2.json", "metadata/PMC5.json", "metadata/x.json", "metadata/PMC0.1.json", "README.txt",
            "metadata/PMC99999999999999999999.1.json", "metadata/PMC5.2.json.tmp"]  # fmt: skip
    with_file(service, gzip.compress("".join(f'"b","{key}","d","""e5"""\n' for key in keys).encode()))
    assert versions(cloud) == {(5, 2, "e5")}


def test_an_inventory_that_is_not_what_its_checksums_say_is_refused(cloud, service):
    service.report("2026-09-04T01-00Z")
    service.objects[f"{REPORTS}/2026-09-04T01-00Z/manifest.checksum"] = MD5.encode()
    with pytest.raises(Refused, match=r"http\.md5"):
        newest_report(cloud)
    service.report("2026-09-04T01-00Z")
    service.objects[f"{REPORTS}/data/2026-09-04T01-00Z-0.csv.gz"] += b"\0"
    with pytest.raises(Refused, match=r"http\.(md5|truncated)"):
        versions(cloud)


def test_a_bucket_without_inventory_says_so(cloud):
    with pytest.raises(SourceError, match="holds no inventory report"):
        newest_report(cloud)


def test_a_large_inventory_is_read_in_pieces(cloud, service, monkeypatch):
    monkeypatch.setattr("medloom.connectors.pmc_inventory.BLOCK_BYTES", 1 << 16)
    service.report("2026-09-04T01-00Z")
    rows = "".join(f'"b","metadata/PMC{n}.1.json","2026-01-08T11:47:59.000Z","{n:032x}"\n' for n in range(1, 20_001))
    with_file(service, gzip.compress(rows.encode()))
    tables = list(read_report(cloud, newest_report(cloud)))
    assert sum(table.num_rows for table in tables) == 20_000
    assert max(table.num_rows for table in tables) < 1000
