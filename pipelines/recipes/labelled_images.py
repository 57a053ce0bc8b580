"""Public sets of labelled 2-D images (ChestX-ray14, CheXpert, MIMIC-CXR-JPG, PadChest, VinDr, RSNA, SIIM, Open-i)."""

from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.labelled import Labelled
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.findings import Findings


def recipe(*, source: Location, set: str, shard_bytes: int = 1 << 30) -> Recipe:
    """Images of one public set with its labels: captions, findings asked openly, as yes or no, and by their boxes.

    Args:
        source: folder, or URL, that holds the set as it is published: its tables and its images.
        set: which set it is: chestxray14, chexpert, mimic_cxr_jpg, openi, padchest, rsna_pneumonia,
            siim_pneumothorax, vindr_cxr, vindr_mammo, vindr_pcxr or vindr_spinexr.
        shard_bytes: source bytes after which a shard is full.
    """
    return Recipe(
        name="labelled_images",
        sources=(Labelled(set, source, set),),
        stages=(Measure(),),
        tasks=(Captions(), Findings()),
        shard_bytes=shard_bytes,
    )
