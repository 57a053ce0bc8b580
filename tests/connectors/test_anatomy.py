"""The vocabulary against the label lists of the public sets, as those who publish and who use the sets write them."""

import pytest

from medloom.connectors import anatomy
from medloom.connectors.anatomy import is_known, label

# The 222 distinct labels of M3D-Seg's 25 sets and AbdomenAtlas, ranges written short ("1..3" for 1, 2, 3).
M3D = """
additional 13th thoracic vertebra T13|additional 13th thoracic vertebra, T13|adrenal|adrenal gland {left,right}
anterior eyeball {left,right}|aorta|artery|arytenoid|autochthon {left,right}|biliary system|bladder|bone|bone mandible
brain|brainstem|buccal mucosa|carotid artery {left,right}|cervical esophagus|cervical spine C{1..7}
clavicula {left,right}|coccygis|cochlea {left,right}|colon|colon cancer|cricopharyngeal inlet|duodenum|esophagus|face
femur {left,right}|gall bladder|gallbladder|gluteus {maximus,medius,minimus} {left,right}|head of femur {left,right}
heart|heart atrium {left,right}|heart myocardium|heart ventricle {left,right}|hepatic vessels|hip {left,right}
humerus {left,right}|iliac artery {left,right}|iliac vena {left,right}|iliopsoas {left,right}|inferior vena cava
intestine|kidney|kidney cyst|kidney {left,right}|kidney tumor|kidneys|lacrimal gland {left,right}|larynx glottis
larynx supraglottic|left adrenal gland|left kidney|left lung|left suprarenal gland|left suprarenal tumor|lips|liver
liver {cyst,kyst,kyste}|liver tumor|liver tumor 0{1..7}|liver tumor {1..2}|liver tumors|lumbar spine L1
lumbar spine L{3..6}|lung lower lobe {left,right}|lung middle lobe right|lung tumours|lung upper lobe {left,right}
lungs|metal|metastasectomie|optic chiasm|optic nerve {left,right}|oral cavity|pancreas|pancreatic lesion
parotid gland {left,right}|pituitary gland|portal vein|portal vein 1|portal vein and splenic vein|postcava
posterior eyeball {left,right}|prostate or uterus|pulmonary artery|rectum|renal artery|renal vein|rib left {1..12}
rib right {1..12}|right adrenal gland|right kidney|right lung|right suprarenal gland|right suprarenal tumor|sacrum
scapula {left,right}|skin|small bowel|small intestin|spinal cord|spleen|stomach|stones|submandibular gland {left,right}
suprarenal gland|thoracic spine T{1..12}|thyroid|trachea|tumor|tumour|urinary bladder|uterus|vena cava|venous system
vertebrae C{1..7}|vertebrae L{1..5}|vertebrae T{1..12}
"""
SAME = {
    ("kidney", "left"): [
        "left kidney", "kidney left", "kidney_left", "leftkidney", "Kidney_L", "KIDNEY L", "L kidney", "left kidneys",
        "kidney-left", "KidneyLeft",
    ],
    ("kidney", "right"): ["right kidney", "kidney right", "kidney_right", "rightkidney", "Rt kidney", "kidney (right)"],
    ("kidney", ""): ["kidney", "kidneys", "both kidneys", "bilateral kidneys"],
    ("inferior vena cava", ""): ["postcava", "inferior vena cava", "inferior_vena_cava", "IVC"],
    ("gallbladder", ""): ["gall bladder", "gallbladder", "gall_bladder", "Gallbladder"],
    ("urinary bladder", ""): ["bladder", "urinary_bladder", "urinary bladder"],
    ("esophagus", ""): ["esophagus", "oesophagus", "Esophagus"],
    ("adrenal gland", "left"): ["left adrenal gland", "adrenal_gland_left", "leftsurrenalgland"],
    ("adrenal gland tumor", "right"): ["rightsurrenaltumor", "right suprarenal tumor"],
    ("liver tumor", ""): ["livertumor", "livertumor01", "livertumors", "liver tumour", "hepatic tumor"],
    ("liver cyst", ""): ["livercyst", "liverkyst", "liverkyste", "liver kyst", "hepatic cysts"],
    ("vertebra L2", ""): ["L2", "lumbar spine L2", "vertebrae_L2", "vertebra L2"],
    ("vertebra T13", ""): ["T13", "additional 13th thoracic vertebra, T13"],
    ("coccyx", ""): ["coccygis", "coccyx"],
    ("carotid artery", "left"): ["A_Carotid_L", "carotid artery left"],
    ("anterior eyeball", "right"): ["Eye_AR", "anterior eyeball right"],
    ("posterior eyeball", "left"): ["Eye_PL", "posterior eyeball left"],
    ("lacrimal gland", "left"): ["Glnd_Lacrimal_L", "lacrimal gland left"],
    ("optic nerve", "right"): ["OpticNrv_R", "optic nerve right"],
    ("mandible", ""): ["Bone_Mandible", "bone mandible", "mandible"],
    ("glottis", ""): ["Larynx_G", "larynx glottis"],
    ("small bowel", ""): ["smallintestin", "small intestin", "small_bowel", "small intestine"],
    ("femoral head", "left"): ["head of femur left", "Head_of_femur_L", "left femoral head"],
    ("rib 1", "left"): ["rib_left_1", "rib left 1"],
    ("rib 12", "right"): ["rib_right_12"],
    ("lung", ""): ["lungs", "lung"],
    ("lung tumor", ""): ["lung tumours", "lung cancer", "pulmonary tumor"],
    ("portal vein", ""): ["portalvein", "portalvein1", "portal vein 1"],
    ("portal vein and splenic vein", ""): ["portal_vein_and_splenic_vein", "portal and splenic veins"],
}  # fmt: skip


def spelled_out(pattern: str) -> list[str]:
    """Every label that a pattern with {a,b} and {1..3} stands for."""
    if "{" not in pattern:
        return [pattern]
    before, _, rest = pattern.partition("{")
    inside, _, after = rest.partition("}")
    low, dots, high = inside.partition("..")
    ways = [str(n) for n in range(int(low), int(high) + 1)] if dots else inside.split(",")
    return [text for way in ways for text in spelled_out(f"{before}{way}{after}")]


def m3d_labels() -> list[str]:
    return [text for p in M3D.strip().replace("\n", "|").split("|") for text in spelled_out(p)]


def test_every_label_of_the_26_sets_is_known():
    labels = m3d_labels()
    assert len(set(labels)) == len(labels) == 222
    assert [text for text in labels if not is_known(text)] == []


def test_the_side_is_never_in_the_name_and_always_beside_it():
    for text in m3d_labels():
        found = label(text)
        words = text.split()
        assert found.side == ("left" if "left" in words else "right" if "right" in words else ""), text
        assert not {"left", "right"} & set(found.name.split()), text
        assert found.stated == text


@pytest.mark.parametrize(("name", "side"), SAME)
def test_spellings_of_different_sets_meet(name, side):
    for stated in SAME[name, side]:
        assert (label(stated).name, label(stated).side) == (name, side), stated


def test_structures_that_differ_keep_different_names():
    names = [
        "kidney", "kidney cyst", "kidney tumor", "kidney lesion", "liver", "lung", "lung upper lobe", "aorta",
        "bladder", "gallbladder", "esophagus", "cervical esophagus", "inferior vena cava", "superior vena cava",
        "vena cava", "portal vein", "portal vein and splenic vein", "hepatic vessel", "femur", "head of femur", "colon",
        "small bowel", "intestine", "T1", "T12", "L1", "C1", "rib 1", "rib 11", "rib", "renal vein", "renal artery",
    ]  # fmt: skip
    assert len({label(name).name for name in names}) == len(names)


def test_a_finding_belongs_to_the_organ_that_the_set_is_about():
    assert label("tumour", within="liver").name == "liver tumor"
    assert label("cancer", within="lung").name == "lung tumor"
    assert label("cyst", within="kidney").name == "kidney cyst"
    assert label("vessel", within="liver").name == "hepatic vessel"
    assert label("kidney tumor", within="liver").name == "kidney tumor"
    assert label("colon cancer primaries").name == "colon tumor"
    assert label("tumor").name == "tumor"
    assert label("spleen", within="liver").name == "spleen"


def test_unknown_words_keep_their_own_words_and_give_their_side():
    found = label("Some_Odd_Structure_Left")
    assert (found.name, found.side, found.stated) == ("some odd structure", "left", "Some_Odd_Structure_Left")
    assert not is_known("Some_Odd_Structure_Left")
    assert (label("GTV1").name, label("PTV_60 Gy").name) == ("gtv1", "ptv 60 gy")
    assert (label("upright thing").side, label("L").name, label("").name) == ("", "l", "")


def test_every_vertebra_of_verse_has_a_name_of_its_own():
    numbered = [f"C{n}" for n in range(1, 8)] + [f"T{n}" for n in range(1, 14)] + [f"L{n}" for n in range(1, 7)]
    names = [label(level).name for level in numbered]
    assert names == [f"vertebra {level}" for level in numbered]


def test_no_spelling_stands_under_two_names():
    seen: dict[str, str] = {}
    for name, others in anatomy.SYNONYMS.items():
        for text in (name, *others):
            key = "".join(c for c in text if c.isalnum())
            assert seen.setdefault(key, name) == name, text
        assert label(name).name == name
    assert set(anatomy.SYNONYMS) <= set(anatomy.names())
