"""Vocabulary: one name for each finding that tables of labels call differently."""

import re

NORMAL = "no finding"
_NAMES = {
    "effusion": "pleural effusion", "pleural effusion": "pleural effusion", "pleural thickening": "pleural thickening",
    "infiltrates": "infiltration", "infiltration": "infiltration", "mass": "mass", "nodule": "nodule",
    "nodule mass": "nodule or mass", "lung opacity": "lung opacity", "opacity": "lung opacity",
    "enlarged cardiomediastinum": "enlarged cardiomediastinum", "enlarged pa": "enlarged pulmonary artery",
    "no finding": NORMAL, "no findings": NORMAL, "normal": NORMAL, "no lung opacity not normal": "other abnormality",
    "ild": "interstitial lung disease", "copd": "chronic obstructive pulmonary disease",
    "copd signs": "chronic obstructive pulmonary disease", "fibrosis": "pulmonary fibrosis",
    "pulmonary fibrosis": "pulmonary fibrosis", "hernia": "hernia", "lung tumor": "lung tumor",
    "rib fracture": "rib fracture", "clavicle fracture": "clavicle fracture", "fracture": "fracture",
    "other lesion": "other lesion", "other lesions": "other lesion", "other disease": "other disease",
    "other diseases": "other disease", "airspace opacity": "airspace opacity", "pneumothorax": "pneumothorax",
    "broncho pneumonia": "bronchopneumonia", "brocho pneumonia": "bronchopneumonia", "bronchitis": "bronchitis",
    "osteophytes": "osteophyte", "disc space narrowing": "disc space narrowing",
    "foraminal stenosis": "foraminal stenosis", "spondylolysthesis": "spondylolisthesis",
    "surgical implant": "surgical implant", "vertebral collapse": "vertebral collapse",
    "asymmetry": "asymmetry", "focal asymmetry": "focal asymmetry", "global asymmetry": "global asymmetry",
    "suspicious calcification": "suspicious calcification", "suspicious lymph node": "suspicious lymph node",
    "skin thickening": "skin thickening", "skin retraction": "skin retraction",
    "nipple retraction": "nipple retraction",
    "architectural distortion": "architectural distortion", "cpam": "congenital pulmonary airway malformation",
    "hyaline membrane disease": "hyaline membrane disease", "situs inversus": "situs inversus",
}  # fmt: skip


def finding_name(stated: str) -> str:
    """Return our name of a finding: lower case, words apart by single spaces, synonyms by their common name."""
    words = re.sub(r"[^a-z0-9]+", " ", stated.lower()).strip()
    return _NAMES.get(words, words)
