"""All kinds of example that speak of the masks of a volume; a volume without masks gives none of them."""

from medloom.pipelines.tasks.referring import ReferringComprehension, ReferringGeneration
from medloom.pipelines.tasks.referring_segmentation import ReferringSegmentation
from medloom.pipelines.tasks.region_questions import RegionQuestions
from medloom.pipelines.tasks.segmentation import Segmentation
from medloom.pipelines.unit import Task

REGION_TASKS: tuple[Task, ...] = (
    Segmentation(), ReferringComprehension(), ReferringGeneration(), ReferringSegmentation(), RegionQuestions(),
)  # fmt: skip
