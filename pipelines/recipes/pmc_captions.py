"""Papers of any folder: figures with their captions, and the panels of compound figures with their part of them."""

from medloom.pipelines.recipe import Location, Recipe, Task
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.stages.divide import Divide
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.panel_captions import PanelCaptions


def recipe(*, source: Location, panels: bool = True, threshold: float = 0.7, shard_bytes: int = 1 << 28) -> Recipe:
    """JATS articles with their figure files: each figure with its caption, each sure panel with its part of it.

    Args:
        source: folder by path or URL with *.xml or *.nxml and the figure files beside them or in folders named alike,
            or a raw zone.
        panels: whether compound figures are divided and their panels captioned.
        threshold: least confidence (0 to 1) of a figure's panels; below it the figure is left whole.
        shard_bytes: bytes of articles after which a shard is full.
    """
    captions: tuple[Task, ...] = (Captions(),)
    return Recipe(
        name="pmc_captions",
        sources=(Papers("papers", source),),
        stages=(Divide(threshold), Measure()) if panels else (Measure(),),
        tasks=(*captions, PanelCaptions(threshold)) if panels else captions,
        shard_bytes=shard_bytes,
    )
