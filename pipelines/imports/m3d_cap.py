"""M3D-Cap and M3D-VQA, read: a report of each volume, and questions about it."""

import io
from typing import Any

from medloom.pipelines.csv_guard import unguarded
from medloom.pipelines.imports.csv_rows import Fields, csv_rows
from medloom.pipelines.imports.m3d_seg import cases_of, found_at
from medloom.pipelines.imports.scans_folder import ScansFolder, npy_array, placed
from medloom.pipelines.sources.local import local_copy
from medloom.pipelines.tasks.header_questions import CHOOSE, LETTERS
from medloom.schemas.errors import Refused

COLUMNS = ("Image Path", "Question Type", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Answer")
MAX_TEXT_BYTES = 1 << 20
NO_CHOICE = "NA"


def read_reports(folder: ScansFolder, url: str, listed: dict[str, Any]) -> None:
    """Read the volumes of M3D-Cap that a list names, 1 × Z × Y × X, each with the text beside it."""
    for split, case in cases_of(listed):
        name = str(case.get("image") if isinstance(case, dict) else case)
        try:
            if not isinstance(case, dict) or not case.get("text"):
                raise Refused("case.form", "it is no image with a text")
            path = _volume(folder, name, url)
            text = found_at(folder.job, str(case["text"]), url)
            if folder.job.files[text] > MAX_TEXT_BYTES:
                raise Refused("text.large", f"a report of more than {MAX_TEXT_BYTES} bytes")
            folder.tell(path, text=folder.job.read(text).decode("utf-8-sig"), split=split)
            folder.job.made["text"] += 1
        except UnicodeDecodeError as fault:
            folder.job.refuse("text", name, Refused("text.encoding", f"byte {fault.start} is not UTF-8"))
        except Refused as refused:
            folder.job.refuse("text", name, refused)


def read_questions(folder: ScansFolder, url: str) -> None:
    """Read the questions of M3D-VQA; the report that each row repeats is not read again."""
    with local_copy(folder.job.source, url) as local, open(local, "rb") as raw:
        lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="")
        for number, row in enumerate(csv_rows(folder.job, url, lines, COLUMNS), 2):
            try:
                said = fields_of(row, is_ours=folder.job.is_ours)
                if not said["Question"].strip() or not said["Answer"].strip():
                    raise Refused("question.empty", "the question or the answer is empty")
                path = _volume(folder, said["Image Path"], url)
                folder.ask(path, _asked(said) | {"type": said["Question Type"]})
            except Refused as refused:
                folder.job.refuse("question", f"{url}:{number}", refused)


def _asked(said: dict[str, str]) -> dict[str, str]:
    """Return a question with its choices below it, as ours are asked, and the answer with its letter.

    Raises:
        Refused("question.choice"): the answer is none of the choices.
    """
    choices = {x: said[f"Choice {x}"] for x in LETTERS if said[f"Choice {x}"] not in ("", NO_CHOICE)}
    if not choices:
        return {"question": said["Question"], "answer": said["Answer"]}
    letter = said.get("Answer Choice", "").strip()
    if choices.get(letter) != said["Answer"]:
        raise Refused("question.choice", "the answer is not the choice of its letter")
    listed = [f"{x}. {text}" for x, text in choices.items()]
    return {"question": "\n".join((f"{said['Question']} {CHOOSE}", *listed)), "answer": f"{letter}. {said['Answer']}"}


def fields_of(row: Fields, *, is_ours: bool) -> dict[str, str]:
    """Return the fields of a row, as they were before they were guarded in an export of ours.

    Raises:
        Refused("row.columns"): it has more or fewer than the header.
    """
    if None in row or any(value is None for value in row.values()):
        raise Refused("row.columns", "it has more or fewer fields than the header")
    texts = {str(name): str(value) for name, value in row.items()}
    return {name: unguarded(text) for name, text in texts.items()} if is_ours else texts


def _volume(folder: ScansFolder, stated: str, beside: str) -> str:
    """Return the path of a volume of M3D-Cap in the new folder, where it is written when it is met first."""
    url = found_at(folder.job, stated, beside)
    name = folder.name_of(url)
    if not folder.has(name):
        ours = folder.ours.get(url)
        array = npy_array(folder.job, url, n_axes=4)
        if array.shape[0] != 1:
            raise Refused("npy.shape", f"an image of {array.shape[0]} channels is not read")
        said = {"dtype": str(ours["dtype"]), "units": str(ours["units"])} if ours else {}
        folder.volume(name, placed(folder, url, array[0], **said), ours=ours)
    return f"{name}/{name}.nii.gz"
