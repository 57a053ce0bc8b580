"""PMC-Inline as RadFM's loader reads it: a list of sentences per paper with the pictures that each cites."""

from medloom.pipelines.exports.papers import PaperText
from medloom.pipelines.exports.pmc_inline import live_text, meant, write_paper
from medloom.pipelines.exports.writing import Writing


def export(to: Writing) -> None:
    """PMC-Inline as RadFM's loader reads it: `[{"text", "img_ref": [id, …]}, …]` per paper, a sentence each.

    - `papers/PMCID.json`: the sentences in order. Their texts keep the white space that follows them (a blank line
      after a paragraph), so that joined they are the text of the form `pmc_inline`.
    - `paper_SPLIT.csv`: the column `PMC_path`, a paper per row, relative to this folder.
    - `images/PMCID_figid.jpg`: always called .jpg, since the loader makes the name out of the id and skips what it
      does not find; a picture stored as PNG is a PNG inside, unchanged, which decoders go by.

    What text leaves is said of the form `pmc_inline`.
    """
    for paper in to.papers():
        text = live_text(paper, to)
        if text is None:
            continue
        sentences = [
            {"text": text.text[start:end], "img_ref": _cited(text, start, end)} for start, end in text.sentences
        ]
        write_paper(paper, to, sentences)
        to.row(f"paper_{paper.view.split}.csv", {"PMC_path": f"papers/{paper.name}.json"})
        for picture in meant(paper, text):
            to.picture(paper, picture, always_jpg=True)


def _cited(text: PaperText, start: int, end: int) -> list[str]:
    return list(dict.fromkeys(r.id for r in text.references if start <= r.start < end))
