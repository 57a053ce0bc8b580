"""Papers of any folder: figures with captions, interleaved text, and questions phrased by a language model if named."""

from medloom.pipelines.recipe import Location, Recipe, Task
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.stages.divide import Divide
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.interleaved import Interleaved
from medloom.pipelines.tasks.text_questions import TextQuestions


def recipe(
    *,
    source: Location,
    llm: Location = "",
    max_sentences: int = 50,
    max_media: int = 3,
    captions: bool = False,
    questions: bool = False,
    panels: bool = False,
    shard_bytes: int = 1 << 28,
) -> Recipe:
    """JATS articles with their figure files: captions, interleaved text and, with questions=true, questions.

    Args:
        source: folder by path or URL with *.xml or *.nxml and the figure files beside them or in folders named alike.
        llm: "embedded" or the URL of an OpenAI-compatible server; needed with questions=true.
        max_sentences, max_media: of one interleaved window.
        captions: whether a figure is followed by its caption in interleaved text.
        questions: whether a language model phrases questions on captions and on the sentences that cite a figure.
        panels: whether compound figures are divided, so that the index tells the boxes of their panels.
        shard_bytes: bytes of articles after which a shard is full.
    """
    tasks: tuple[Task, ...] = (
        Captions(),
        Interleaved(max_sentences=max_sentences, max_media=max_media, captions=captions),
    )
    return Recipe(
        name="pmc_inline",
        sources=(Papers("papers", source),),
        stages=(Divide(), Measure()) if panels else (Measure(),),
        tasks=(*tasks, TextQuestions()) if questions else tasks,
        llm=llm,
        shard_bytes=shard_bytes,
    )
