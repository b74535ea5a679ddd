"""The three readers, on small data sets and on broken ones."""

import numpy as np
import pytest
from PIL import Image

from mpitile.data.datasets import read_dataset
from mpitile.errors import InputError

NAMES = ("RBC", "WBC", "Platelets")


def draw(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc_object(name, x0, y0, x1, y1, difficult="<difficult>0</difficult>"):
    return (
        f"<object><name>{name}</name>{difficult}<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
    )


def annotate(root, stem, *objects, size="<size><width>40</width><height>30</height></size>"):
    write(
        root / "Annotations" / f"{stem}.xml", f"<annotation>{size}{''.join(objects)}</annotation>"
    )


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "voc"
    for stem in ("b", "a", "c"):
        draw(root / "JPEGImages" / f"{stem}.jpg")
        annotate(root, stem, voc_object("WBC", 11, 4, 31, 19))
    write(root / "ImageSets/Main/train.txt", "c\n\na\n")
    return root


@pytest.fixture
def yolo(tmp_path):
    root = tmp_path / "yolo"
    for stem in ("b", "a", "deep/c"):
        draw(root / "images" / f"{stem}.png")
        write(root / "labels" / f"{stem}.txt", "1 0.5 0.25 0.2 0.1\n\n0 0.1 0.1 0.5 0.5\n")
    return root


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "folders"
    for stem in ("dog/2", "cat/1", "cat/0", "emu/5"):
        draw(root / f"{stem}.png")
    return root


def stems(dataset):
    return [sample.name for sample in dataset.samples]


class TestVoc:
    def test_all_images_come_sorted_with_darknets_boxes(self, voc):
        dataset, remarks = read_dataset("voc", voc, None, NAMES)
        assert stems(dataset) == ["a", "b", "c"] and remarks == ()
        assert dataset.kind == "detection" and dataset.names == NAMES and len(dataset) == 3
        np.testing.assert_allclose(
            dataset.samples[0].truths, [[20 / 40, 10.5 / 30, 20 / 40, 15 / 30, 1]]
        )
        assert dataset.samples[0].image == voc / "JPEGImages" / "a.jpg"

    def test_lists_keep_their_order(self, voc, tmp_path):
        assert stems(read_dataset("voc", voc, "ImageSets/Main/train.txt", NAMES)[0]) == ["c", "a"]
        outside = write(tmp_path / "list.txt", f"JPEGImages/b.jpg\n{voc}/JPEGImages/a.jpg\nc.jpg\n")
        assert stems(read_dataset("voc", voc, outside, NAMES)[0]) == ["b", "a", "c"]
        assert stems(read_dataset("voc", voc, "JPEGImages", NAMES)[0]) == ["a", "b", "c"]

    def test_suffixes_of_any_case_and_no_others(self, voc):
        draw(voc / "JPEGImages/d.PNG")
        annotate(voc, "d")
        write(voc / "JPEGImages/e.txt", "")
        write(voc / "JPEGImages/._a.jpg", "")
        dataset, _ = read_dataset("voc", voc, None, NAMES)
        assert stems(dataset) == ["a", "b", "c", "d"]
        assert dataset.samples[3].truths.shape == (0, 5)

    def test_bad_boxes_are_told_once_and_left_out(self, voc):
        good = voc_object("RBC", 1, 1, 9, 9)
        annotate(voc, "a", good, good, voc_object("RBC", 504, 337, 504, 337), good)
        annotate(voc, "b", voc_object("WBC", 20, 20, 12, 25), voc_object("RBC", 45, 2, 60, 9))
        write(voc / "twice.txt", "a\nb\na\n")
        dataset, remarks = read_dataset("voc", voc, "twice.txt", NAMES)
        assert [len(sample.truths) for sample in dataset.samples] == [3, 0, 3]
        assert len(remarks) == 3
        assert remarks[0].startswith("a: box 3 (RBC") and "empty" in remarks[0]
        assert remarks[1].startswith("b: box 1 (WBC") and "empty" in remarks[1]
        assert remarks[2].startswith("b: box 2 (RBC") and "outside" in remarks[2]

    def test_boxes_that_stick_out_are_kept(self, voc):
        annotate(voc, "a", voc_object("RBC", 30, 20, 60, 50))
        dataset, remarks = read_dataset("voc", voc, None, NAMES)
        assert remarks == ()
        np.testing.assert_allclose(dataset.samples[0].truths[0, :4], [1.1, 34 / 30, 0.75, 1.0])

    def test_difficult_objects_are_left_out(self, voc):
        annotate(
            voc,
            "a",
            voc_object("RBC", 1, 1, 9, 9, "<difficult>1</difficult>"),
            voc_object("WBC", 1, 1, 9, 9, ""),
        )
        truths = read_dataset("voc", voc, None, NAMES)[0].samples[0].truths
        assert truths[:, 4].tolist() == [1]

    @pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
    def test_a_missing_size_comes_from_the_image(self, voc, size):
        annotate(voc, "a", voc_object("WBC", 11, 4, 31, 19), size=size)
        samples = read_dataset("voc", voc, None, NAMES)[0].samples
        np.testing.assert_array_equal(samples[0].truths, samples[1].truths)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("<annotation>\n<object>", r"a\.xml:\d"),
            (voc_object("Blob", 1, 1, 2, 2), r"a\.xml.*object 1.*Blob.*RBC, WBC"),
            ("<object><name>RBC</name></object>", r"a\.xml.*object 1.*bndbox"),
            (voc_object("RBC", 1, 1, "x", 2), r"a\.xml.*xmax.*'x'"),
            (voc_object("RBC", "nan", 1, 3, 2), r"a\.xml.*xmin.*'nan'"),
            (voc_object("RBC", 1, 1, 3, 2).replace("ymin", "low"), r"a\.xml.*<ymin>"),
        ],
    )
    def test_a_bad_annotation_is_named(self, voc, text, words):
        if not text.startswith("<annotation>"):
            text = f"<annotation>{text}</annotation>"
        write(voc / "Annotations/a.xml", text)
        with pytest.raises(InputError, match=words):
            read_dataset("voc", voc, None, NAMES)

    def test_what_is_missing_is_named(self, voc):
        (voc / "Annotations/b.xml").unlink()
        with pytest.raises(InputError, match=r"b\.xml.*b\.jpg"):
            read_dataset("voc", voc, None, NAMES)
        write(voc / "list.txt", "a\nzebra\n")
        with pytest.raises(InputError, match=r"list\.txt:2.*zebra"):
            read_dataset("voc", voc, "list.txt", NAMES)
        with pytest.raises(InputError, match=r"nolist\.txt"):
            read_dataset("voc", voc, "nolist.txt", NAMES)
        with pytest.raises(InputError, match=r"data\.names"):
            read_dataset("voc", voc, None, None)

    def test_an_ambiguous_stem_is_named(self, voc):
        draw(voc / "JPEGImages/a.png")
        with pytest.raises(InputError, match=r"train\.txt:3.*a\.jpg.*a\.png"):
            read_dataset("voc", voc, "ImageSets/Main/train.txt", NAMES)


class TestYolo:
    def test_labels_are_read(self, yolo):
        dataset, remarks = read_dataset("yolo", yolo, None, NAMES)
        assert stems(dataset) == ["a", "b", "deep/c"] and remarks == ()
        np.testing.assert_array_equal(
            dataset.samples[2].truths, [[0.5, 0.25, 0.2, 0.1, 1], [0.1, 0.1, 0.5, 0.5, 0]]
        )

    def test_lists_and_folders(self, yolo, tmp_path):
        other = draw(tmp_path / "other/images/z.png")
        write(tmp_path / "other/labels/z.txt", "2 0.5 0.5 0.5 0.5")
        write(yolo / "train.txt", f"\ufeffimages/b.png\ndeep/c\n{other}\n")
        dataset, _ = read_dataset("yolo", yolo, "train.txt", NAMES)
        assert stems(dataset) == ["b", "deep/c", "z"]
        assert dataset.samples[2].truths[0, 4] == 2
        assert stems(read_dataset("yolo", yolo, "images/deep", NAMES)[0]) == ["deep/c"]

    def test_an_image_without_label_file_has_no_boxes(self, yolo):
        (yolo / "labels/a.txt").unlink()
        dataset, remarks = read_dataset("yolo", yolo, None, NAMES)
        assert dataset.samples[0].truths.shape == (0, 5)
        assert len(remarks) == 1 and "1 of 3" in remarks[0]

    def test_bad_boxes_are_told(self, yolo):
        write(yolo / "labels/a.txt", "0 .5 .5 .2 .2\n1 .5 .5 .1 0\n2 1.5 .5 .2 .2\n")
        dataset, remarks = read_dataset("yolo", yolo, None, NAMES)
        assert len(dataset.samples[0].truths) == 1
        assert "a: box in line 2" in remarks[0] and "empty" in remarks[0]
        assert "a: box in line 3" in remarks[1] and "outside" in remarks[1]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("3 .5 .5 .1 .1", "class index 3, expected 0 to 2"),
            ("-1 .5 .5 .1 .1", "class index -1"),
            ("0 .5 .5 .1", "class x y w h"),
            ("0 .5 .5 .1 .1 .9", "class x y w h"),
            ("RBC .5 .5 .1 .1", "class x y w h"),
            ("0 .5 inf .1 .1", "finite"),
        ],
    )
    def test_a_bad_line_is_named(self, yolo, line, words):
        write(yolo / "labels/a.txt", f"0 .5 .5 .2 .2\n{line}\n")
        with pytest.raises(InputError, match=rf"a\.txt:2: .*{words}"):
            read_dataset("yolo", yolo, None, NAMES)

    def test_binary_text_is_named(self, yolo):
        (yolo / "labels/a.txt").write_bytes(b"0 .5\xff\xfe")
        with pytest.raises(InputError, match=r"a\.txt.*0xff"):
            read_dataset("yolo", yolo, None, NAMES)

    def test_missing_parts_are_named(self, yolo, tmp_path):
        with pytest.raises(InputError, match="nowhere"):
            read_dataset("yolo", tmp_path / "nowhere", None, NAMES)
        with pytest.raises(InputError, match="images"):
            read_dataset("yolo", tmp_path, None, NAMES)
        with pytest.raises(InputError, match="at least one image"):
            read_dataset("yolo", yolo, write(tmp_path / "empty.txt", "\n"), NAMES)
        with pytest.raises(InputError, match=r"data\.names.*'a'"):
            read_dataset("yolo", yolo, None, ["a", "b", "a"])
        with pytest.raises(InputError, match=r"data\.format.*coco"):
            read_dataset("coco", yolo, None, NAMES)


class TestFolders:
    def test_folder_names_are_classes(self, folders):
        dataset, remarks = read_dataset("folders", folders, None, None)
        assert dataset.kind == "classification" and dataset.names == ("cat", "dog", "emu")
        assert stems(dataset) == ["cat/0", "cat/1", "dog/2", "emu/5"] and remarks == ()
        assert [sample.label for sample in dataset.samples] == [0, 0, 1, 2]
        assert dataset.samples[0].truths.shape == (0, 5)

    def test_names_decide_the_indices(self, folders):
        (folders / "yak").mkdir()
        dataset, remarks = read_dataset("folders", folders, None, ["emu", "yak", "cat"])
        assert [sample.label for sample in dataset.samples] == [2, 2, 0]
        assert any("yak" in remark for remark in remarks)
        assert any("dog" in remark and "skipped" in remark for remark in remarks)

    def test_lists_and_subfolders(self, folders, tmp_path):
        write(folders / "list.txt", "emu/5.png\ncat/1.png\n")
        dataset, _ = read_dataset("folders", folders, "list.txt", None)
        assert [sample.label for sample in dataset.samples] == [2, 0]
        dataset, _ = read_dataset("folders", tmp_path, "folders", None)
        assert [sample.label for sample in dataset.samples] == [0, 0, 1, 2]

    def test_what_is_wrong_is_named(self, folders, tmp_path):
        with pytest.raises(InputError, match="'fox'"):
            read_dataset("folders", folders, None, ["cat", "fox"])
        write(folders / "list.txt", "cat/1.png\ndog/2.png\n")
        with pytest.raises(InputError, match=r"list\.txt:2.*dog.*cat, emu"):
            read_dataset("folders", folders, "list.txt", ["cat", "emu"])
        write(folders / "list.txt", "cat/9.png\n")
        with pytest.raises(InputError, match=r"list\.txt:1.*cat/9"):
            read_dataset("folders", folders, "list.txt", None)
        (tmp_path / "bare" / "cat").mkdir(parents=True)
        with pytest.raises(InputError, match="at least one image"):
            read_dataset("folders", tmp_path / "bare", None, None)
