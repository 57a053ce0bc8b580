"""Small JATS articles as the literature services give them; equal arguments give equal bytes."""

from dataclasses import dataclass, field

LICENCES = {
    "CC BY": "https://creativecommons.org/licenses/by/4.0/",
    "CC BY-NC": "https://creativecommons.org/licenses/by-nc/4.0/",
    "CC BY-ND": "https://creativecommons.org/licenses/by-nd/4.0/",
    "CC BY-NC-ND": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    "CC0": "https://creativecommons.org/publicdomain/zero/1.0/",
}
XLINK = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
DEFAULT_NAMESPACE = "https://jats.nlm.nih.gov/ns/archiving/1.3/"
NOT_ALLOWED = (
    "<!--The publisher of this article does not allow downloading of the full text in XML form.-->"  # as efetch says it
)


@dataclass(frozen=True)
class Article:
    """An article of PMC.

    Attributes:
        number: of the PMCID.
        licence: key of `LICENCES`, "" for none.
        figures: (file name without extension, caption) of each.
        front_only: what a service gives that may not give the text.
        namespace: the default namespace of the root, as OAI-PMH gives it.
        inner: XML put into the body as it is.
    """

    number: int
    version: int = 1
    licence: str = "CC BY"
    figures: tuple[tuple[str, str], ...] = ()
    retracted: bool = False
    front_only: bool = False
    namespace: str = ""
    inner: str = ""
    title: str = field(default="")

    @property
    def pmcid(self) -> str:
        return f"PMC{self.number}"

    @property
    def name(self) -> str:
        return f"{self.pmcid}.{self.version}"

    def xml(self) -> bytes:
        """The article element alone, without declaration."""
        permissions = f'<license xlink:href="{LICENCES[self.licence]}"/>' if self.licence else ""
        said = NOT_ALLOWED if self.front_only else ""
        title = ("RETRACTED: " if self.retracted else "") + (self.title or f"Sight {self.number}")
        version = f'<article-id pub-id-type="pmcid-ver">PMC{self.number}.{self.version}</article-id>'
        named = f' xmlns="{self.namespace}"' if self.namespace else ""
        return (
            f'<article {XLINK}{named} article-type="research-article" xml:lang="en">{said}<front><article-meta>'
            f'<article-id pub-id-type="pmc">{self.number}</article-id>{version}'
            f'<article-id pub-id-type="doi">10.9999/a.{self.number}</article-id>'
            f"<title-group><article-title>{title}</article-title></title-group>"
            f"<permissions>{permissions}</permissions></article-meta></front>{'' if self.front_only else self._body()}"
            "</article>"
        ).encode()

    def _body(self) -> str:
        figures = "".join(
            f'<fig id="f{i}"><label>Figure {i}</label><caption><p>{caption}</p></caption>'
            f'<graphic xlink:href="{stem}"/></fig>'
            for i, (stem, caption) in enumerate(self.figures, 1)
        )
        return f"<body><sec><title>Results</title><p>It was seen.</p>{self.inner}{figures}</sec></body>"


def bomb(number: int) -> bytes:
    """Return an article whose entities expand to a gigabyte, with a document type that declares them."""
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    article = Article(number, inner="<p>&a9;</p>").xml().decode()
    return f"<!DOCTYPE article [{entities}]>{article}".encode()


def deep(number: int) -> bytes:
    """Return an article with 5,000 elements inside each other."""
    return Article(number, inner="<sec>" * 5000 + "</sec>" * 5000).xml()
