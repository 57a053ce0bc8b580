"""QUBIQ: structures drawn by several raters; of its tasks the three that M3D-Seg keeps, all on CT.

A kidney is one slice stored as a volume. case1-1 and case1-2 are two scans of one patient.
"""

from medloom.connectors.segmentation_sets.spec import Part, SetSpec, numbered

_CASE = r"{label:kidney|pancreas|pancreatic-lesion}/{split:Training|Validation}/case{id:\d+}{scan:-\d+|}"

SETS = (
    SetSpec(
        name="qubiq",
        number="0017",
        parts=(
            Part(
                _CASE + "/image.nii.gz",
                _CASE + r"/task{task:\d+}_seg{rater:\d+}.nii.gz",
                "multi_rater",
                numbered("kidney", "pancreas", "pancreatic-lesion"),
                case="{label}-{split}-{id}{scan}",
                patient="{label}-{split}-{id}",
            ),
        ),
        terms_id="credentialed",
        licence="QUBIQ challenge terms",
        attribution="QUBIQ: Quantification of Uncertainties in Biomedical Image Quantification Challenge",
        body_part="abdomen",
        unused=("{task:brain-growth|brain-tumor|prostate}/*/*/*",),
    ),
)
