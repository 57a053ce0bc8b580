"""Whether the words around a figure's number say that it stands elsewhere: in another work, or in a file beside."""

import re

_REACH = 48
_NAME = r"[A-ZÀ-Þ][\w'’-]+"
_BRACKETED = r"\[\d[\d,–\s-]*\]"
_WORK = (
    r"(?:papers?|works?|stud(?:y|ies)|articles?|reports?|publications?|references?|manuscript|preprint|submission|"
    r"versions?|book)"
)
_OF_OTHERS = re.compile(
    r"\s*[,(]?\s*(?:(?:of|in|from)\s+(?:"
    rf"refs?\b\.?|references?\b|{_BRACKETED}|\(\d{{1,3}}\)|(?:their|his|her)\b"
    r"|(?:that|the|our|an?)\s+(?:original|same|cited|earlier|previous|prior|companion|accompanying|preceding|parent|first)"
    rf"\s+(?:\w+\s+)?{_WORK}"
    rf"|(?:the\s+)?(?:\w+\s+)?{_WORK}\s+(?:of|by)\s+{_NAME}|that\s+{_WORK}"
    rf"|{_NAME}(?:\s+et\s+al|['’]s?\s+(?:\w+\s+)?{_WORK}|\s*[(\[,]?\s*(?:19|20)\d\d|\s*\[\d"
    rf"|(?:,\s+{_NAME}){{0,4}},?\s+(?:and|&)\s+{_NAME},?\s*(?:[(\[,]|(?:19|20)\d\d)))"
    rf"|by\s+{_NAME}(?:\s+et\s+al|\s+(?:and|&)\s+{_NAME}\s*[(\[,]|\s*[(\[]\s*(?:19|20)\d\d))"
)
_BESIDE = re.compile(
    r"\s*,?\s*[(]?(?:in|of|from|within)\s+(?:the\s+)?(?:S\d{1,2}\s+(?:File|Text|Appendix|Data|Methods)|[Ss]upp(?:l|ort)"
    r"|[Aa]dditional\s+[Ff]ile|[Oo]nline\s+(?:[Ss]upp|[Aa]pp|[Dd]ata|[Rr]esource)|[Ee]lectronic\s+[Ss]upp|E?SI\b|[Ww]eb\s*(?:[Aa]pp|[Ee]xtra)"
    r"|[Dd]ata\s+[Ss]upp|[Mm]ultimedia\s+[Aa]pp)"
)
_MONTH = r"(?!Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec|In\b|Since|Until|Before|After|From|By\b)"
_BEFORE = re.compile(
    r"(?:\b(?:their|his|her|previous|former|old|original)|\bet\s+al\.?,?\s*[(\[]?(?:19|20)\d\d[a-z]?[)\]]?[,;:]?"
    rf"|\bet\s+al\.?['’]s?|(?<!\w){_MONTH}{_NAME},?\s*[(\[]?(?:19|20)\d\d[a-z]?[)\]]?\s*[,:]"
    r"(?:\s*pp?\.\s*[\d–, -]+[,:])?|(?P<numbered>\[\d+\]?\s*[,;:])|\bpls?\.\s*[\w–-]+,|\bpp?\.\s*[\d–, -]+,"
    r"|\b[Rr]ef(?:erence|s)?\.?\s*\[?\d+\]?[,;:]?)"
    rf"\s*$|\[\d+\]\s$|{_NAME}\s+\((?:19|20)\d\d[a-z]?\)\s$"
)
# "Following [12], Figure 2 shows": the figure is the sentence's subject, and this article's.
_SUBJECT = re.compile(
    r"[A-Z]?\s+(?:show|depict|illustrat|present|display|summari|demonstrat|indicat|reveal|compar|is\b|was\b)"
)
# In "[22: 50, 62–65, fig. 2]" a lower-case word is the cited work's figure, a capital one this article's.
_CITATION = re.compile(r"\[\d+\s*:[^\]]*$")


def stands_elsewhere(text: str, start: int, end: int) -> str:
    """Return "other_article" or "supplementary" as the words around `text[start:end]` say, "" when they do not."""
    if _BESIDE.match(text, end):
        return "supplementary"
    before = text[max(0, start - _REACH) : start]
    if _OF_OTHERS.match(text, end):
        return "other_article"
    cited = _BEFORE.search(before)
    if cited and not (cited["numbered"] and _SUBJECT.match(text, end)):
        return "other_article"
    return "other_article" if text[start].islower() and _CITATION.search(before) else ""
