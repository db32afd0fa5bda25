"""`measure` by band, region, frame and group: from the command line to the folder, the page and back."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from noiseshift.analysis.parts import figures, lines, tables
from noiseshift.analysis.report import page
from noiseshift.cli import main
from PIL import Image

import noiseshift as ns
from noiseshift.checkpoints import Card, Checkpoint
from noiseshift.studies.measure import run
from noiseshift.studies.parts import Grouping, Mask, read_grouping, read_mask
from noiseshift.studies.protocol import fingerprint
from noiseshift.studies.shards import Shards


def checkpoint(shape=(1, 8, 8), classes=4):
    """A perfect model of Gaussian data."""
    size = int(np.prod(shape))
    exact = ns.targets.Gaussian(torch.zeros(size), torch.full((size,), 0.01)).model(ns.Linear())
    model = ns.wrap(lambda x, t, cond: exact(x.flatten(1), t).x0.reshape(x.shape), ns.Linear(), predicts="x0")
    card = Card("callable", class_names=tuple("abcd"))
    return Checkpoint("mine", model, card, "0" * 64, shape, classes, None, lambda x: x)


def images(shape=(1, 8, 8), classes=4):
    rows = torch.randn(128, *shape, generator=torch.Generator().manual_seed(0))
    return ns.data.Images(rows / 10, torch.arange(128) % classes)


def protocol(**changes):
    given = {"samples": 48, "estimators": {"residual": None}, "points": 2, "batch": 20} | changes
    return ns.Protocol("euler:4", **given)


INSIDE = torch.zeros(8, 8, dtype=torch.bool)
INSIDE[:4] = True
ALL = {"bands": True, "mask": Mask(INSIDE), "by": "class"}


@pytest.fixture(scope="module")
def measured():
    return run(checkpoint(), protocol(**ALL), images())


def test_the_largest_part_that_the_sentence_names_is_in_the_table(measured):
    """Also where other parts are further from 0 in their own floors, and there are more than a terminal shows."""
    names = [f"part {i}" for i in range(12)]
    many = pd.concat(
        [measured.parts[measured.parts.kind == "class"].iloc[:2].assign(part=name) for name in names], ignore_index=True
    )
    many = many.assign(shift=0.01, floor=0.001, significant=True, joint_low=0.009, joint_high=0.011)
    many.loc[many.part == "part 7", ["shift", "floor", "joint_high"]] = [0.02, 0.015, 0.03]
    run = replace(measured, parts=many)
    assert "in part 7 at" in lines(run)[0]
    shown = next(iter(tables(run)))
    assert len(shown.columns) == 9
    assert "part 7" in [str(column.header) for column in shown.columns]


def test_parts_are_read_beside_other_estimators(nothing_kept):
    names = ("constant-pixel", "residual")
    data = images()
    data.pixels[:, :, 0] = 0  # constant pixels
    found = run(checkpoint(), protocol(**ALL, samples=32, estimators=dict.fromkeys(names, 32)), data)
    assert list(found.reports) == list(names)
    assert {*found.parts[found.parts.kind == "band"].estimator} == {"residual"}


def test_every_kind_is_in_the_folder_the_words_and_the_page(measured, tmp_path):
    counts = measured.parts.groupby("kind", sort=False).part.nunique()
    assert dict(counts) == {"band": 8, "region": 2, "class": 4}
    assert {*measured.parts[measured.parts.kind == "class"].part} == {*"abcd"}
    assert [line.split(":")[0] for line in lines(measured)] == ["By band", "By region", "By class"]
    measured.save(tmp_path / "run")
    kept = ns.Run.load(tmp_path / "run")
    pd.testing.assert_frame_equal(kept.parts, measured.parts)
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["parts"]) == len(measured.parts)
    html = page({"run": kept})
    assert all(line in html for line in lines(kept))
    assert {name for name, _, _ in figures(kept)} == {"by-band", "by-region", "by-class"}


def test_what_is_read_beside_changes_no_other_number(measured):
    plain = run(checkpoint(), protocol(), images())
    assert plain.parts is None
    pd.testing.assert_frame_equal(plain.table(), measured.table())


def test_an_interrupted_run_goes_on_to_the_same_numbers(measured, tmp_path):
    about = fingerprint(checkpoint(), protocol(**ALL), images())

    class Stop(Exception):
        pass

    def stopping(stage, done, total):
        if stage == "sampling" and done == 40:
            raise Stop

    with pytest.raises(Stop):
        run(checkpoint(), protocol(**ALL), images(), shards=Shards(tmp_path / "run", about), progress=stopping)
    again = Shards(tmp_path / "run", about)
    assert again.begun
    resumed = run(checkpoint(), protocol(**ALL), images(), shards=again)
    pd.testing.assert_frame_equal(resumed.parts, measured.parts)


def test_what_is_asked_for_is_part_of_the_fingerprint():
    found = [
        fingerprint(checkpoint(), protocol(**asked)) for asked in ({}, {"bands": True}, {"mask": Mask(INSIDE)}, ALL)
    ]
    assert len({json.dumps(each) for each in found}) == 4
    assert not {"bands", "mask", "by"} & set(found[0]), "a run without them is known by what it was known by before"
    other = fingerprint(checkpoint(), protocol(mask=Mask(~INSIDE)))
    assert other != found[2]


def test_frames_of_a_video():
    found = run(checkpoint((1, 3, 4, 4), 0), protocol(by="frame"), images((1, 3, 4, 4)))
    assert dict(found.parts.groupby("kind").part.nunique()) == {"frame": 3}


def test_without_data_it_is_said_what_parts_are_against():
    found = run(checkpoint(), protocol(bands=True, by="class", calibration_rows=40), None)
    assert all("own run" in words for words in found.parts.against)


@pytest.mark.parametrize(
    ("asked", "shape", "words"),
    [
        ({"bands": True}, (1, 5, 8), "even height and width"),
        ({"bands": True, "estimators": {"constant-pixel": None}}, (1, 8, 8), "add residual"),
        ({"mask": Mask(INSIDE)}, (1, 6, 6), "the mask is 8 × 8, the states are 6 × 6"),
        ({"by": "frame"}, (1, 8, 8), "no frames"),
        ({"by": "size"}, (1, 8, 8), "no grouping by 'size'.*measure a run of each"),
        ({"by": "class", "samples": 12}, (1, 8, 8), "ask for more --samples"),
        ({"by": Grouping("animal", {"a": "cat"})}, (1, 8, 8), "says nothing of 'b'"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_work(asked, shape, words):
    with pytest.raises(ValueError, match=words):
        run(checkpoint(shape), protocol(**asked), images(shape), progress=lambda *_: pytest.fail("work was begun"))


def test_a_checkpoint_without_classes_has_no_groups():
    with pytest.raises(ValueError, match="no classes or prompts"):
        run(checkpoint(classes=0), protocol(by="class"), images())


def test_tables_and_masks_are_read(tmp_path):
    (tmp_path / "groups.csv").write_text("class,animal\na,cat\n1, dog\nc,cat\nd,dog\n")
    found = read_grouping(tmp_path / "groups.csv", "animal")
    shift = run(checkpoint(), protocol(by=found), images()).parts
    assert dict(shift.groupby("part").n.first()) == {"cat": 24, "dog": 24}
    with pytest.raises(
        ValueError, match="has the columns class, animal: give one called class or prompt, and one called 'size'"
    ):
        read_grouping(tmp_path / "groups.csv", "size")
    Image.fromarray(INSIDE.numpy().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png").inside, INSIDE)


@pytest.mark.parametrize("rows", ["a," + "x" * 200_000, '"a' + "," * 200_000, "a", "a,cat\nb", "\0\0"], ids=range(5))
def test_a_table_of_groups_that_is_none_is_refused_by_name(rows, tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text(f"class,animal\n{rows}\n")
    with pytest.raises(ValueError, match=r"groups\.csv.*give"):
        read_grouping(path, "animal")


@pytest.mark.parametrize(
    "words", [["--by", "size"], ["--by", "none.csv:KEY"], ["--mask", "none.png"], ["--mask", __file__]]
)
def test_bad_words_are_bad_usage(words):
    found = CliRunner().invoke(main, ["measure", *words])
    assert found.exit_code == 2
    assert "Traceback" not in found.output
