"""Case reports: each patient's story part by part, the diagnosis asked for, and questions if a model is named."""

from medloom.pipelines.recipe import Location, Recipe, Task
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.cases import CaseQuestions, Cases
from medloom.pipelines.tasks.stated_questions import StatedQuestions
from medloom.pipelines.tasks.text_questions import TextQuestions


def recipe(
    *, source: Location, llm: Location = "", max_media: int = 8, questions: bool = False, shard_bytes: int = 1 << 28
) -> Recipe:
    """Case reports: stories by patient, diagnoses asked for, questions that they print, captions; questions=true: more.

    Figures of articles that no rule calls a case report are refused as "article.no_case_report".

    Args:
        source: raw zone, or folder by path or URL with *.xml or *.nxml and the figure files beside them.
        llm: "embedded" or the URL of an OpenAI-compatible server; needed with questions=true.
        max_media: figures of one patient's story.
        questions: whether a language model phrases questions on captions and on the sentences that cite a figure.
        shard_bytes: bytes of articles after which a shard is full.
    """
    tasks: tuple[Task, ...] = (Cases(max_media=max_media), CaseQuestions(), StatedQuestions(), Captions())
    return Recipe(
        name="pmc_case_report",
        sources=(Papers("papers", source, case_reports_only=True),),
        stages=(Measure(),),
        tasks=(*tasks, TextQuestions()) if questions else tasks,
        llm=llm,
        shard_bytes=shard_bytes,
    )
