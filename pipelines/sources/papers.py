"""Papers: a folder of JATS articles and the figure files beside them; a unit is an article version."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from medloom.connectors.images import read_picture
from medloom.pipelines.sources.work import UnitMade, UnitWork, finish, refusal
from medloom.schemas.errors import Refused
from medloom.schemas.medium import Medium
from medloom.schemas.origin import TERMS, Origin


@dataclass(frozen=True)
class Papers:
    """A source of papers.

    Attributes:
        name: of the source, a column of every row.
        root: folder by path or fsspec URL: `*.xml` or `*.nxml` anywhere in it, figure files beside them or in a folder
            named after the article's file. It decides no byte, so it is in no fingerprint.
        modalities: what is known of figure files beforehand, as (name of the file, modality); others are "figure".
        case_reports_only: whether figures of articles that no rule calls a case report are refused.
        version: changes when equal files would give other media.
    """

    name: str
    root: str = field(metadata={"decides": False})
    modalities: tuple[tuple[str, str], ...] = ()
    case_reports_only: bool = False
    version: str = "1"

    deidentify = "off"  # what is published names its authors by licence
    kind = "papers"

    def read(self, work: UnitWork) -> UnitMade:
        """Return the samples of an article's figures; called in the guarded child."""
        links = {link["key"]: link for link in work.links if link["key"]}
        made = UnitMade(work.unit)
        for figure in work.rows["figure"]:
            for media in figure["media"]:
                if media["role"] != "figure":
                    continue
                made.taken += 1
                try:
                    medium = self._medium(work, figure, media, links.get(media["key"]))
                except Refused as refused:
                    made.refused.append(refusal(work, media["key"], "read", refused))
                    continue
                finish(work, made, medium)
        return made

    def _medium(self, work: UnitWork, figure: dict, media: dict, link: dict | None) -> Medium:
        article = work.rows["article"][0]
        if self.case_reports_only and not article["is_case_report"]:
            raise Refused("article.no_case_report", f"no rule calls {work.unit} a case report")
        terms_id = figure["terms_id"] or article["terms_id"]
        if TERMS[terms_id].llm_egress == "none":
            raise Refused("terms.third_party", f"figure {figure['label'] or media['key']} is reproduced by permission")
        if link is None:
            raise Refused("media.unavailable", f"no file for graphic {media['href'][-80:]!r} under the source's root")
        picture = read_picture(Path(work.paths[link["url"]]).read_bytes())
        origin = Origin(
            source=self.name,
            source_id=article["pmcid"] or article["doi"] or work.unit,
            licence=article["licence_text"][:300] or article["licence_code"],
            spdx=TERMS[terms_id].spdx,
            licence_evidence="figure" if figure["terms_id"] else article["licence_evidence"],
            terms_id=terms_id,
            attribution=article["attribution"],
            digest=work.digests[link["url"]],
            fetched_object=link["url"],
        )
        return Medium(
            key=media["key"],
            unit=work.unit,
            group=work.group,
            origin=origin,
            content=picture,
            modality=dict(self.modalities).get(os.path.basename(link["url"]), "figure"),
            text=figure["caption"],
            declared=tuple(dict.fromkeys(panel["letter"] for panel in figure["panels"] or ())),
        )
