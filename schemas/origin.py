"""Origin: where a medium or an example comes from and what its terms permit; the one table of terms."""

from dataclasses import dataclass
from typing import Literal

Egress = Literal["none", "local", "any"]


@dataclass(frozen=True)
class Terms:
    """What a licence or agreement permits.

    Attributes:
        spdx: SPDX identifier, or "LicenseRef-…" where SPDX has none.
        redistribution: whether `publish` may copy the bytes.
        derivatives: whether changed versions may be shared (a no-derivatives licence says no).
        commercial: whether commercial use is permitted.
        llm_egress: which language models may read it: "none", "local" (this machine) or "any".
    """

    spdx: str
    redistribution: bool
    derivatives: bool
    commercial: bool
    llm_egress: Egress


TERMS_VERSION = 1
TERMS: dict[str, Terms] = {
    "cc0-1.0": Terms("CC0-1.0", True, True, True, "any"),
    "public-domain": Terms("LicenseRef-public-domain", True, True, True, "any"),
    "cc-by": Terms("CC-BY-4.0", True, True, True, "any"),
    "cc-by-sa": Terms("CC-BY-SA-4.0", True, True, True, "any"),
    "cc-by-nd": Terms("CC-BY-ND-4.0", True, False, True, "any"),
    "cc-by-nc": Terms("CC-BY-NC-4.0", True, True, False, "any"),
    "cc-by-nc-sa": Terms("CC-BY-NC-SA-4.0", True, True, False, "any"),
    "cc-by-nc-nd": Terms("CC-BY-NC-ND-4.0", True, False, False, "any"),
    "nih-cxr": Terms("LicenseRef-NIH-ChestX-ray14", True, True, True, "any"),  # unrestricted; the NIH is to be named
    "icbm-152": Terms("LicenseRef-ICBM-152", True, True, True, "any"),  # free with MNI's notice in all copies
    "apache-2.0": Terms("Apache-2.0", True, True, True, "any"),
    "mit": Terms("MIT", True, True, True, "any"),
    "bsd-3-clause": Terms("BSD-3-Clause", True, True, True, "any"),
    "tdm": Terms("LicenseRef-text-and-data-mining", False, False, False, "local"),
    "reproduced-with-permission": Terms("LicenseRef-third-party", False, False, False, "none"),
    "private": Terms("LicenseRef-private", False, False, False, "local"),
    "credentialed": Terms("LicenseRef-credentialed", False, False, False, "local"),
    "unknown": Terms("LicenseRef-unknown", False, False, False, "local"),
}


@dataclass(frozen=True)
class Origin:
    """Where something comes from, what its terms permit, and by which bytes it is known.

    Attributes:
        source: name of the source ("pmc", "plos", "scans").
        source_id: the article version, or the token of a series: never what identifies a person.
        licence: as stated by the source, verbatim or "" where nothing is stated.
        spdx: SPDX identifier of `terms_id`.
        licence_evidence: where the statement stands ("license_ref", "license_href", "metadata", "declared").
        terms_id: row of `TERMS`.
        attribution: whom to name.
        digest: sha256 of the source object, or its token for clinical data.
        fetched_object: the object's name at the source, "" for clinical data (its path is in `private/`).
        derived_from: key of the medium that this one is made of, "" when it is an original.
        key_id: which identity key made the tokens, "none" when nothing was tokenised with a secret.
    """

    source: str
    source_id: str
    licence: str
    spdx: str
    licence_evidence: str
    terms_id: str
    attribution: str
    digest: str
    fetched_object: str = ""
    derived_from: str = ""
    key_id: str = "none"

    @property
    def terms(self) -> Terms:
        """The permissions that `terms_id` stands for."""
        return TERMS[self.terms_id]
