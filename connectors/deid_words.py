"""Words that a description may keep: anatomy, modalities, techniques, and numbers with units; nobody is named by them.

An allow-list: a word that is not here, such as a name, a place or a ward, does not get through.
"""

import re
from collections.abc import Callable

_ANATOMY = """
abdomen abdominal acetabulum adrenal airway ankle aorta aortic appendix arm arterial artery atlas axilla back bile
bladder body bone bones bowel brachial brain brainstem breast bronchus calcaneus cardiac carotid carpal cerebellum
cerebral cervical cervix chest clavicle cochlea colon coronary cranial cranium diaphragm disc duodenum elbow
epididymis esophagus extremity eye face facial femoral femur fibula finger foot forearm gallbladder gland gluteus hand
head heart hepatic hip humerus iac iliac iliopsoas ilium inguinal intestine jaw joint kidney kidneys knee larynx leg
liver lobe lumbar lung lungs lymph mandible maxilla mediastinum meniscus mouth muscle myocardium nasal neck nerve
node nodes nose oesophagus optic orbit orbits ovary pancreas parotid patella pelvic pelvis petrous pharynx pituitary
pleura portal prostate pulmonary radius rectum renal rib ribs sacrum scapula scrotum sella shoulder sinus sinuses
skull spine spinal spleen sternum stomach temporal testis thalamus thigh thoracic thorax thymus thyroid tibia tmj toe
tongue trachea trochanter trunk ulna ureter urethra urinary uterus vagina vascular vein vena venous ventricle vertebra
vertebrae vessel vessels wrist cspine tspine lspine cavum whole wholebody
"""
_FINDINGS = """
abscess aneurysm bleed calcification cancer carcinoma cyst cystic dissection edema effusion embolism emphysema
fracture haemorrhage hematoma hemorrhage infarct infarction infection inflammation ischemia lesion lesions
lymphoma mass metastases metastasis metastatic nodule nodules normal obstruction opacity pneumonia pneumothorax
sclerosis stenosis stone stones stroke thrombosis trauma tumor tumors tumour tumours
gtv ctv ptv itv oar organ organs risk target structure structures contour contours external roi
"""
_TECHNIQUE = """
2d 3d 4d abdo acquisition adc angio angiogram angiography anterior ap apical arm arterial asl asset attenuation
average avg axial ax axis b0 bilateral biopsy blade bold bolus bravo breath bssfp bw calibration cardiac cbct ce
cine cor coronal cone contrast contraste corrected cr cranio cspine ct cta cube cue cut delay delayed density dce
diastolic diffusion dir dixon dose dti dual dwi dx dynamic dyn early echo ecg energy enhanced epi equilibrium
exam examination exhale expiration expiratory fa fast fat fatsat fbp fdg field fiesta film filter filtered fisp flair
flash flow fluoro fmri fov frame frames free fs fse full function gad gadolinium gated gating gd ge gradient
grappa gre group haste hbp head high hires hr hrct imaging image images in inhale injection inspiration inspiratory
intermediate inversion ir isotropic iterative iv ivim kernel large late lateral lava left limited liver
localiser localizer long loc low lower lt mag magnitude map maps mask max maximum medium mean mg min minip minimum mip
mode mosaic motion movie mp2rage mpr mprage mprange mr mra mrcp mri mrs mrv mt multi multiphase native nm non
noncontrast none normal oblique on opp oral original out pa parallel part pc pd perf perfusion pet petct phase
phases plain plan planning plane pns post posterior pre primary projection prone propeller protocol proton pt pw
quantitative raw rad radial reconstruction recon reformat reformatted ref reference relaxometry repeat research rest
restricted resting right rotation routine rt sag sagittal sat saturation scan scout screening sd se seg segmentation
segmented sense sequence series sequential set shim short side single slab slice slices slow small smooth soft space
spair spect spectroscopy spgr spin spiral split spoiled ssfp standard standing static std steady stir stack stress
structural study subtraction supine suppressed survey susceptibility swi systolic t1 t2 t1w t2w t1rho te test thick
thin third time tir tissue tof tomo tomography topogram total tr trace tracew tracking transverse trace true trufi tse
turbo two ultra ultrafast uncorrected under upper us ute vibe view views volume volumetric w water wb weighted wo wide
window with without wout xa xr xray contrast iohexol iopamidol iodixanol iomeprol iopromide gadobutrol gadoterate
gadobenate gadopentetate gadoxetate barium omnipaque visipaque ultravist isovue gadavist dotarem magnevist
sharp detail edge b c f i
"""
_SMALL = "and of the to for at or no not per by from a both all s with in on"
_UNITS = "mm cm m ml l mg kg s ms sec min kev kv ma mas hu mgy bpm deg t hz khz cc pct percent x d"

SMALL = frozenset(_SMALL.split())  # they say nothing alone
WORDS = frozenset(f"{_ANATOMY} {_FINDINGS} {_TECHNIQUE} {_UNITS}".split()) | SMALL

_WORD = re.compile(r"[^\W_]+(?:\.\d+)?")
# Two digits at most, with or without a unit; a b-value; a vertebra or kernel such as L4 or B30f.
_MEASURE = re.compile(r"\d{1,2}(?:\.\d{1,2})?(?:mm|cm|ml|s|ms|t|x|d|kv|min|w)?|b\d{1,4}|[bcdlstu]\d{1,2}[a-z]?")
_DATE = re.compile(
    r"\d{1,4}(?:[./-]\d{1,4}){2,}"
)  # of any order; a day that stayed would tell how far dates were moved
_NUMBER = re.compile(r"\d{1,2}(?:\.\d{1,2})?")
_SEPARATORS = "_-/+,"
LONGEST = 2000


def is_plain(text: str) -> bool:
    """Whether every word of a text is one of `WORDS` or a measure."""
    return all(_is_word(word.casefold()) for word in _WORD.findall(text))


def _is_word(word: str) -> bool:
    return word in WORDS or _MEASURE.fullmatch(word) is not None


def clean(text: str, *, names_someone: Callable[[str], bool]) -> str:
    """Return the words of `text` that may stay, in their order; "" when nothing is left but small words and numbers.

    Args:
        names_someone: whether a word, case folded, is part of an identifier of this patient's study.
    """
    kept: list[str] = []
    end, last_number, says_something = 0, False, False
    text = _DATE.sub(lambda date: " " * len(date[0]), text[:LONGEST])
    for found in _WORD.finditer(text):
        word = found.group().casefold()
        number = _NUMBER.fullmatch(word) is not None
        if not _is_word(word) or names_someone(word) or (number and last_number):
            continue  # two numbers in a row may be a date or an identifier in pieces
        between = text[end : found.start()].strip()
        if kept:
            kept.append(between if between and between in _SEPARATORS else " ")
        kept.append(found.group())
        end, last_number = found.end(), number or (last_number and word in SMALL)
        says_something = says_something or not (number or word in SMALL)
    return "".join(kept) if says_something else ""
