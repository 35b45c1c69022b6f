"""Every reader on its published layout: ids, labels and texts, and what it says of files that are not in it."""

import json

import numpy as np
import pytest

from gmijax import datasets


def edit(path, change):
    """Changes a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def labels(dataset, name):
    return [sample.labels.get(name) for sample in dataset]


class TestLibriSpeech:
    def test_reads_a_split(self, librispeech):
        dataset = datasets.open("librispeech", librispeech)
        assert dataset.ids == (
            "test-clean/1089/134686/1089-134686-0000.flac",
            "test-clean/1089/134686/1089-134686-0001.flac",
            "test-clean/61/70968/61-70968-0000.flac",
            "test-clean/61/70968/61-70968-0001.flac",
        )
        assert dataset.label_names == ("chapter", "gender", "lexical", "speaker")
        assert dataset[0].labels == {"speaker": "1089", "chapter": "134686", "gender": "female", "lexical": "he"}
        assert [sample.text for sample in dataset][:2] == ["HE HOPED THERE WOULD BE STEW", ""]
        assert labels(dataset, "gender") == ["female", "female", "male", "male"]
        assert labels(dataset, "lexical") == ["he", None, "he", "give"]
        wave = dataset[0].audio()
        assert wave.shape == (800,)
        assert wave.dtype == np.float32

    def test_words_are_counted_in_the_split_alone(self, librispeech):
        assert labels(datasets.open("librispeech", librispeech, split="dev-clean"), "lexical") == ["go"]

    def test_without_genders(self, librispeech):
        (librispeech / "SPEAKERS.TXT").unlink()
        assert "gender" not in datasets.open("librispeech", librispeech).label_names

    def test_unknown_split(self, librispeech):
        message = r"LibriSpeech: has no split 'test'; it has dev-clean, test-clean; the layout is LibriSpeech/<split>"
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.open("librispeech", librispeech, split="test")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (
                "61-70969-0000 HE",
                r"trans\.txt:3: begins with '61-70969-0000'; expected an utterance such as 61-70968-0000",
            ),
            ("61-70968-0000.flac HE", r"trans\.txt:3: begins with '61-70968-0000\.flac'"),
            ("61-70968-0000 HE", r"trans\.txt:3: has a second transcript of 61-70968-0000"),
        ],
    )
    def test_malformed_transcript(self, librispeech, line, message):
        path = librispeech / "test-clean/61/70968/61-70968.trans.txt"
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(datasets.DatasetError, match=message) as caught:
            datasets.open("librispeech", librispeech)
        assert (caught.value.path, caught.value.line) == (path, 3)

    def test_transcript_that_is_not_utf8(self, librispeech):
        path = librispeech / "test-clean/61/70968/61-70968.trans.txt"
        path.write_bytes(path.read_bytes() + b"61-70968-0002 \xff\n")
        with pytest.raises(datasets.DatasetError, match=r"trans\.txt:3: is not UTF-8 at byte"):
            datasets.open("librispeech", librispeech)

    @pytest.mark.parametrize("name", ["61-70968-0002.flac", "61-70968-0002.FLAC"])
    def test_recording_without_transcript(self, librispeech, write, name):
        write(librispeech / "test-clean/61/70968" / name, b"")
        with pytest.raises(datasets.DatasetError, match=f"{name}: has no line in the"):
            datasets.open("librispeech", librispeech)

    def test_transcript_without_recording_is_told_when_called(self, librispeech):
        (librispeech / "test-clean/61/70968/61-70968-0000.flac").unlink()
        sample = datasets.open("librispeech", librispeech)[2]
        assert sample.text == "HE BEGAN A CONFUSED COMPLAINT"
        with pytest.raises(datasets.DatasetError, match=r"61-70968-0000\.flac: is missing"):
            sample.audio()

    def test_malformed_speakers(self, librispeech, write):
        write(librispeech / "SPEAKERS.TXT", ";\n61 | X | test-clean | 8 | A\n")
        with pytest.raises(datasets.DatasetError, match=r"SPEAKERS\.TXT:2: is not 'speaker \| F or M"):
            datasets.open("librispeech", librispeech)

    def test_speaker_that_is_not_listed(self, librispeech, write):
        write(librispeech / "SPEAKERS.TXT", "61 | M | test-clean | 8 | A\n")
        with pytest.raises(datasets.DatasetError, match=r"SPEAKERS\.TXT: has no line for speaker 1089"):
            datasets.open("librispeech", librispeech)

    def test_empty_split(self, librispeech):
        (librispeech / "train-clean-100").mkdir()
        with pytest.raises(datasets.DatasetError, match="train-clean-100: holds no sample of librispeech"):
            datasets.open("librispeech", librispeech, split="train-clean-100")


class TestCremaD:
    def test_reads(self, crema_d):
        dataset = datasets.open("crema_d", crema_d)
        assert dataset.ids[0] == "AudioWAV/1001_DFA_ANG_XX.wav"
        first = {"speaker": "1001", "sentence": "DFA", "emotion": "anger", "level": "unspecified", "gender": "male"}
        assert dataset[0].labels == first
        assert dataset[0].text == "Don't forget a jacket."
        assert labels(dataset, "emotion") == ["anger", "happy", "sad", "neutral", "sad"]
        assert labels(dataset, "level") == ["unspecified", "low", "high", "medium", "unspecified"]

    def test_without_demographics(self, crema_d):
        (crema_d / "VideoDemographics.csv").unlink()
        assert datasets.open("crema_d", crema_d).label_names == ("emotion", "level", "sentence", "speaker")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("1001_DFA_ANG.wav", "has 3 codes in its name; expected <actor>_<sentence>_<emotion>_<level>.wav"),
            ("1001_ABC_ANG_XX.wav", "has the sentence 'ABC' in its name; known are DFA, IEO"),
            ("1001_DFA_JOY_XX.wav", "has the emotion 'JOY' in its name; known are ANG, DIS"),
            ("1001_DFA_ANG_MAX.wav", "has the level 'MAX' in its name; known are LO, MD, HI"),
        ],
    )
    def test_malformed_name(self, crema_d, write, name, message):
        path = write(crema_d / "AudioWAV" / name)
        with pytest.raises(datasets.DatasetError, match=message) as caught:
            datasets.open("crema_d", crema_d)
        assert caught.value.path == path

    def test_malformed_demographics(self, crema_d, write):
        path = write(crema_d / "VideoDemographics.csv", "ActorID,Sex\n1001,Male\n1002,woman\n")
        with pytest.raises(datasets.DatasetError, match=r"VideoDemographics\.csv:3: has Sex 'woman'"):
            datasets.open("crema_d", crema_d)
        write(path, "ActorID,Sex\n1001,Male\n")
        with pytest.raises(datasets.DatasetError, match=r"VideoDemographics\.csv: has no line for actor 1002"):
            datasets.open("crema_d", crema_d)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(datasets.DatasetError, match=r"AudioWAV: is missing; expected a folder, as in CREMA-D"):
            datasets.open("crema_d", tmp_path)


class TestEsc50:
    def test_reads(self, esc50):
        dataset = datasets.open("esc50", esc50)
        assert dataset.ids == ("audio/1-100038-A-14.wav", "audio/5-9032-A-0.wav")
        assert dataset[0].labels == {"sound_class": "chirping_birds", "fold": 1}
        assert dataset[1].labels == {"sound_class": "dog", "fold": 5}
        assert dataset[0].text is None
        assert dataset[1].audio().shape == (800,)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("a.wav,1\n", r"esc50\.csv:2: has 2 fields; the header has 3"),
            ("a.wav,1,dog\nb.wav,1,dog,cat\n", r"esc50\.csv:3: has 4 fields; the header has 3"),
            ("a.wav,one,dog\n", r"esc50\.csv:2: has filename 'a.wav', fold 'one', category 'dog'"),
            ('"a.wav,1,dog\n', r"esc50\.csv:2: is no CSV"),
            ("a.wav,1,dog\na.wav,2,dog\n", r"holds two samples with the id 'audio/a\.wav'"),
            ("", r"esc50\.csv: holds no sample of esc50"),
        ],
    )
    def test_malformed_table(self, esc50, write, rows, message):
        write(esc50 / "meta" / "esc50.csv", "filename,fold,category\n" + rows)
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.open("esc50", esc50)

    def test_missing_column_and_table(self, esc50, write):
        path = write(esc50 / "meta" / "esc50.csv", "filename,target\na.wav,1\n")
        with pytest.raises(datasets.DatasetError, match=r"esc50\.csv:1: has no column fold, category; it has filename"):
            datasets.open("esc50", esc50)
        write(path, "")
        with pytest.raises(datasets.DatasetError, match=r"esc50\.csv:1: has no column .*; it has none"):
            datasets.open("esc50", esc50)
        path.unlink()
        with pytest.raises(datasets.DatasetError, match=r"esc50\.csv: cannot be read: No such file"):
            datasets.open("esc50", esc50)


class TestVoxCeleb1:
    def test_reads(self, voxceleb1):
        dataset = datasets.open("voxceleb1", voxceleb1)
        assert dataset.ids[0] == "wav/id10001/1zcIwhmdeo4/00001.wav"
        first = {"speaker": "id10001", "video": "1zcIwhmdeo4", "gender": "male", "nationality": "Ireland"}
        assert dataset[0].labels == first
        assert labels(dataset, "gender") == ["male", "male", "female"]

    def test_splits(self, voxceleb1):
        assert len(datasets.open("voxceleb1", voxceleb1, split="dev")) == 2
        assert labels(datasets.open("voxceleb1", voxceleb1, split="test"), "speaker") == ["id10270"]
        with pytest.raises(datasets.DatasetError, match="has no split 'train'; it has dev, test;"):
            datasets.open("voxceleb1", voxceleb1, split="train")

    def test_without_meta(self, voxceleb1):
        (voxceleb1 / "vox1_meta.csv").unlink()
        assert datasets.open("voxceleb1", voxceleb1).label_names == ("speaker", "video")
        with pytest.raises(datasets.DatasetError, match=r"vox1_meta\.csv: is missing or empty, and tells which"):
            datasets.open("voxceleb1", voxceleb1, split="dev")

    @pytest.mark.parametrize("name", ["id10001/00001.wav", "speaker/video/00001.wav"])
    def test_misplaced(self, voxceleb1, write, name):
        path = write(voxceleb1 / "wav" / name)
        with pytest.raises(datasets.DatasetError, match="is not where an utterance lies") as caught:
            datasets.open("voxceleb1", voxceleb1)
        assert caught.value.path == path

    def test_malformed_meta(self, voxceleb1, write):
        header = "VoxCeleb1 ID\tGender\tNationality\tSet\n"
        path = write(voxceleb1 / "vox1_meta.csv", header + "id10001\tx\tIreland\tdev\n")
        with pytest.raises(datasets.DatasetError, match=r"vox1_meta\.csv:2: has Gender 'x'; expected f or m"):
            datasets.open("voxceleb1", voxceleb1)
        write(path, header + "id10001\tm\tIreland\tdev\n")
        with pytest.raises(datasets.DatasetError, match=r"vox1_meta\.csv: has no line for speaker id10270"):
            datasets.open("voxceleb1", voxceleb1)


class TestCoco:
    def test_labels_are_the_papers(self, coco):
        dataset = datasets.open("coco", coco)
        assert dataset.ids == tuple(f"val2017/{i:012}.jpg" for i in range(1, 7))
        assert labels(dataset, "object_count") == ["1", "2-4", "11+", None, None, "2-4"]
        assert labels(dataset, "objects") == [1, 3, 11, None, None, 2]
        # Image 2: the dog is larger than both persons, and the crowd does not count. Image 6: a tie, so the alphabet.
        assert labels(dataset, "object_category") == ["dog", "dog", "person", None, None, "cat"]
        assert labels(dataset, "super_category") == ["animal", "animal", "person", None, None, "animal"]
        # Shares of 5000 pixels: 1250; (100 + 100 + 400) / 3; 16; 200. The cuts are at 200 / 5000, shared by two.
        assert labels(dataset, "mean_object_area") == pytest.approx([0.25, 0.04, 0.0032, None, None, 0.04], abs=1e-12)
        assert labels(dataset, "object_size") == ["large", "small", "small", None, None, "small"]
        # Spreads: 0 of one; wide of image 6, whose objects sit in opposite corners: the root of .4^2 + .4^2.
        spreads = labels(dataset, "center_spread")
        assert spreads[0] == 0
        assert spreads[2] == pytest.approx(0.05 * np.sqrt(10), abs=1e-12)
        assert spreads[5] == pytest.approx(0.4 * np.sqrt(2), abs=1e-12)
        assert labels(dataset, "spatial_spread") == ["tight", "medium", "tight", None, None, "wide"]

    def test_captions(self, coco):
        dataset = datasets.open("coco", coco)
        texts = ["A dog sits.", "Two people and a DOG", "Many people", "…", None, "A cat"]
        assert [sample.text for sample in dataset] == texts
        assert labels(dataset, "lexical") == ["a", "two", "many", None, None, "a"]
        assert dataset[0].image().size == (8, 6)
        every = datasets.open("coco", coco, captions="all")
        assert every.ids[:3] == (
            "val2017/000000000001.jpg#20",
            "val2017/000000000001.jpg#30",
            "val2017/000000000002.jpg#21",
        )
        assert every.ids[-2] == "val2017/000000000005.jpg"
        assert every[1].text == "A dog, again."
        assert every[1].labels == every[0].labels
        assert every[1].labels is not every[0].labels
        with pytest.raises(ValueError, match="captions is 'both'; use 'first' or 'all'"):
            datasets.open("coco", coco, captions="both")

    def test_order_of_the_tables_does_not_matter(self, coco):
        before = list(datasets.open("coco", coco))
        edit(coco / "annotations/instances_val2017.json", lambda table: [table[key].reverse() for key in table])
        edit(coco / "annotations/captions_val2017.json", lambda table: table["annotations"].reverse())
        after = list(datasets.open("coco", coco))
        for one, other in zip(before, after, strict=True):
            assert one == other

    def test_unknown_split(self, coco):
        with pytest.raises(datasets.DatasetError, match="has no split 'train2017'; it has val2017;"):
            datasets.open("coco", coco, split="train2017")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("images"), "the file has no images"),
            (lambda t: t["images"][2].pop("file_name"), r"images\[2\] has no file_name"),
            (lambda t: t["images"].append(t["images"][0]), r"images\[6\] has the id 6 of another image"),
            (lambda t: t["images"][1].update(width=0), r"images\[1\] is 0 x 50 pixels"),
            (lambda t: t["images"][1].update(width="9"), r"images\[1\] has width '9'; expected int or float"),
            (
                lambda t: t["annotations"][3].update(category_id=2),
                r"annotations\[3\] has category_id 2, which instances",
            ),
            (lambda t: t["annotations"][3].update(image_id=9), r"annotations\[3\] has image_id 9, which instances"),
            (
                lambda t: t["annotations"][0].update(bbox=[0, 0, 1]),
                r"annotations\[0\] has bbox \[0, 0, 1\]; expected left",
            ),
            (lambda t: t["annotations"][0].update(bbox=[0, 0, -1, 1]), r"annotations\[0\] has bbox"),
            (lambda t: t["annotations"][0].update(bbox=[0, 0, float("nan"), 1]), r"annotations\[0\] has bbox"),
            (lambda t: t["images"][0].update(file_name="/elsewhere/1.jpg"), "/elsewhere/1.jpg: is not below"),
            (
                lambda t: t["images"].clear() or t["annotations"].clear(),
                "annotations: holds no sample of coco|image_id",
            ),
        ],
    )
    def test_malformed_instances(self, coco, change, message):
        edit(coco / "annotations/instances_val2017.json", change)
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.open("coco", coco)

    def test_malformed_captions(self, coco, write):
        path = coco / "annotations/captions_val2017.json"
        edit(path, lambda table: table["annotations"][0].update(caption=None))
        with pytest.raises(datasets.DatasetError, match=r"captions_val2017\.json: annotations\[0\] has caption None"):
            datasets.open("coco", coco)
        write(path, '{"annotations": [\n{"image_id": 1,}]}')
        with pytest.raises(datasets.DatasetError, match=r"captions_val2017\.json:2: is no JSON: .*, column"):
            datasets.open("coco", coco)
        write(path, "[]")
        with pytest.raises(datasets.DatasetError, match=r"captions_val2017\.json: holds a list; expected an object"):
            datasets.open("coco", coco)
        path.unlink()
        with pytest.raises(datasets.DatasetError, match=r"captions_val2017\.json: cannot be read: No such file"):
            datasets.open("coco", coco)


class TestGqa:
    def test_reads(self, gqa):
        dataset = datasets.open("gqa", gqa)
        assert dataset.ids == ("05515938", "201307251", "201640614")
        assert dataset[0].labels == {
            "image": "n16",
            "answer": "no",
            "structural_type": "verify",
            "semantic_type": "obj",
            "detailed_type": "existC",
        }
        assert dataset[1].text == "What is on the wall?"
        assert labels(dataset, "answer") == ["no", "pipe", "woman"]
        assert labels(dataset, "object_category") == [None, "dress", "dress"]
        assert labels(dataset, "object_count") == [None, "2-4", "2-4"]
        # The tertiles are over the images asked about: beside the unasked one, whose object is smaller, it is large.
        assert labels(dataset, "object_size") == [None, "small", "small"]
        # Boxes of 30 x 20 and of 3 x 20 in 60 x 40.
        assert labels(dataset, "mean_object_area") == pytest.approx([None, 0.1375, 0.1375], abs=1e-12)
        assert dataset[1].image().size == (8, 6)

    def test_parts_and_missing_scene_graphs(self, gqa):
        dataset = datasets.open("gqa", gqa, split="train_all")
        assert dataset.ids == ("1", "2")
        assert "object_count" not in dataset.label_names

    def test_test_split_has_no_answers(self, gqa):
        assert datasets.open("gqa", gqa, split="test_balanced").label_names == ("image",)

    def test_the_published_folder_of_version_1_2(self, gqa):
        (gqa / "questions").rename(gqa / "questions1.2")
        assert len(datasets.open("gqa", gqa)) == 3

    def test_unknown_split(self, gqa):
        message = "has no split 'val'; it has test_balanced, train_all, val_balanced;"
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.open("gqa", gqa, split="val")

    def test_malformed(self, gqa, write):
        path = gqa / "questions/val_balanced_questions.json"
        edit(path, lambda table: table["05515938"].pop("imageId"))
        with pytest.raises(datasets.DatasetError, match="question 05515938 has no imageId"):
            datasets.open("gqa", gqa)
        write(path, '{"7": {"imageId": "n16", "question": "A?"},\n"7": {"imageId": "n16", "question": "B?"}}')
        with pytest.raises(datasets.DatasetError, match="has the key '7' twice in one object"):
            datasets.open("gqa", gqa)
        write(path, "{}")
        with pytest.raises(datasets.DatasetError, match="holds no sample of gqa"):
            datasets.open("gqa", gqa)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t["2414"].update(height=-1), "image 2414 is 60 x -1 pixels; expected a positive size"),
            (lambda t: t["2414"]["objects"]["2"].pop("w"), "image 2414, object 2, has no w"),
            (lambda t: t["2414"]["objects"]["2"].update(w=-3), "image 2414, object 2, is -3 x 20 pixels"),
            (lambda t: t["2414"].pop("objects"), "image 2414 has no objects"),
        ],
    )
    def test_malformed_scene_graph(self, gqa, change, message):
        edit(gqa / "sceneGraphs/val_sceneGraphs.json", change)
        with pytest.raises(datasets.DatasetError, match=message):
            datasets.open("gqa", gqa)
