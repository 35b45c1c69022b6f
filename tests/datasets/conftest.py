"""Trees in the published layouts, as small as they can be."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile


@pytest.fixture
def write() -> Callable[[Path, object], Path]:
    """Writes a file with what its ending asks for: a short recording, a small image, JSON or text; makes its folder."""

    def write(path: Path, content: object = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".json":
            path.write_text(json.dumps(content), encoding="utf-8")
        elif path.suffix in (".flac", ".wav"):
            soundfile.write(path, np.linspace(-0.5, 0.5, 800), 16000)
        else:
            PIL.Image.new("RGB", (8, 6), (10, 20, 30)).save(path)
        return path

    return write


@pytest.fixture
def librispeech(tmp_path, write) -> Path:
    root = tmp_path / "LibriSpeech"
    for split, speaker, chapter, lines in (
        ("test-clean", "61", "70968", ["HE BEGAN A CONFUSED COMPLAINT", "GIVE NOT SO EARNEST A MIND"]),
        ("test-clean", "1089", "134686", ["HE HOPED THERE WOULD BE STEW", ""]),
        ("dev-clean", "84", "121123", ["GO DO YOU HEAR"]),
    ):
        folder, prefix = root / split / speaker / chapter, f"{speaker}-{chapter}"
        write(
            folder / f"{prefix}.trans.txt",
            "".join(f"{prefix}-{i:04} {line}".rstrip() + "\n" for i, line in enumerate(lines)),
        )
        for i in range(len(lines)):
            write(folder / f"{prefix}-{i:04}.flac")
    write(
        root / "SPEAKERS.TXT",
        ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
        "60   | M | train-clean-100  | 20.18 | |CBW|Simon\n"
        "61   | M | test-clean       |  8.08 | Paul-Gabriel Wiener\n"
        "84   | F | dev-clean        |  8.02 | Christie Nowak\n"
        "1089 | F | test-clean       |  8.03 | Peter Bobbe\n",
    )
    return root


@pytest.fixture
def crema_d(tmp_path, write) -> Path:
    root = tmp_path / "CREMA-D"
    for name in ("1001_DFA_ANG_XX", "1001_IEO_HAP_LO", "1002_IEO_SAD_HI", "1002_TIE_NEU_MD", "1040_ITH_SAD_X"):
        write(root / "AudioWAV" / f"{name}.wav")
    write(
        root / "VideoDemographics.csv",
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
        '1040,42,Female,"African American",Not Hispanic\n',
    )
    return root


@pytest.fixture
def esc50(tmp_path, write) -> Path:
    root = tmp_path / "ESC-50"
    write(
        root / "meta" / "esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\r\n"
        "5-9032-A-0.wav,5,0,dog,True,9032,A\r\n1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\r\n",
    )
    for name in ("1-100038-A-14.wav", "5-9032-A-0.wav"):
        write(root / "audio" / name)
    return root


@pytest.fixture
def voxceleb1(tmp_path, write) -> Path:
    root = tmp_path / "VoxCeleb1"
    for name in ("id10001/1zcIwhmdeo4/00001", "id10001/1zcIwhmdeo4/00002", "id10270/-5r0dWxy17C8/00001"):
        write(root / "wav" / f"{name}.wav")
    write(
        root / "vox1_meta.csv",
        "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n"
        "id10270\tEartha_Kitt\tf\tUSA\ttest\n",
    )
    return root


def coco_tables() -> tuple[dict, dict]:
    """Six images of 100 x 50: one object, three, eleven, none, only a crowd, and a tie between two categories."""

    def annotation(image, category, bbox, iscrowd=0):
        return {"image_id": image, "category_id": category, "bbox": bbox, "iscrowd": iscrowd, "segmentation": []}

    instances = {
        "images": [
            {"id": i, "file_name": f"{i:012}.jpg", "width": 100, "height": 50, "license": 1} for i in (6, 5, 4, 3, 2, 1)
        ],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
            {"id": 17, "name": "cat", "supercategory": "animal"},
        ],
        "annotations": [
            annotation(1, 18, [10, 10, 50, 25]),  # a quarter of the image
            annotation(2, 1, [0, 0, 10, 10]),
            annotation(2, 1, [90, 0, 10, 10]),
            annotation(2, 18, [40.5, 20, 20, 20]),  # fewer than the persons, but larger than both
            annotation(2, 1, [0, 0, 100, 50], iscrowd=1),
            *(annotation(3, 1, [5 * i, 20, 4, 4]) for i in range(11)),
            annotation(5, 1, [0, 0, 100, 50], iscrowd=1),
            annotation(6, 18, [0, 0, 20, 10]),
            annotation(6, 17, [80, 40, 20, 10]),
        ],
    }
    captions = {
        "images": instances["images"],
        "annotations": [
            {"image_id": 1, "id": 30, "caption": "A dog, again."},
            {"image_id": 1, "id": 20, "caption": " A dog\nsits. "},
            {"image_id": 2, "id": 21, "caption": "Two people and a DOG"},
            {"image_id": 3, "id": 22, "caption": "Many people"},
            {"image_id": 4, "id": 23, "caption": "…"},
            {"image_id": 6, "id": 24, "caption": "A cat"},
        ],
    }
    return instances, captions


@pytest.fixture
def coco(tmp_path, write) -> Path:
    root = tmp_path / "COCO"
    instances, captions = coco_tables()
    write(root / "annotations" / "instances_val2017.json", instances)
    write(root / "annotations" / "captions_val2017.json", captions)
    for image in instances["images"]:
        write(root / "val2017" / image["file_name"])
    return root


@pytest.fixture
def gqa(tmp_path, write) -> Path:
    root = tmp_path / "GQA"

    def question(image, text, answer, kind):
        types = {"structural": kind, "semantic": "obj", "detailed": "existC"}
        return {"imageId": image, "question": text, "answer": answer, "fullAnswer": answer, "types": types}

    write(
        root / "questions" / "val_balanced_questions.json",
        {
            "201307251": question("2414", "What is on the wall?", "pipe", "query"),
            "05515938": question("n16", "Is it overcast?", "no", "verify"),
            "201640614": question("2414", "Who is wearing the dress?", "woman", "query"),
        },
    )
    write(
        root / "questions" / "train_all_questions" / "train_all_questions_0.json",
        {"1": question("2414", "A?", "b", "query")},
    )
    write(
        root / "questions" / "train_all_questions" / "train_all_questions_1.json",
        {"2": question("n16", "C?", "d", "query")},
    )
    write(root / "questions" / "test_balanced_questions.json", {"9": {"imageId": "n16", "question": "E?"}})
    dress = {"name": "dress", "x": 0, "y": 0, "w": 30, "h": 20, "attributes": [], "relations": []}
    write(
        root / "sceneGraphs" / "val_sceneGraphs.json",
        {
            "2414": {
                "width": 60,
                "height": 40,
                "objects": {"1": dress, "2": dress | {"name": "pipe", "x": 30, "w": 3}},
            },
            "n16": {"width": 60, "height": 40, "objects": {}},
            "unasked": {"width": 60, "height": 40, "objects": {"3": dress | {"w": 1}}},
        },
    )
    for name in ("2414", "n16"):
        write(root / "images" / f"{name}.jpg")
    return root
