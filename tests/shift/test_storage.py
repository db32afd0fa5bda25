"""Reports come back from their files as they were, and what was changed in between is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reports import log_snr_of, report_of

from noiseshift.diffusion.schedules import describe
from noiseshift.estimators.instrument import DATA, OWN
from noiseshift.reading import ReadingError
from noiseshift.shift import read_reports, write_reports

TIMES = np.array([0.75, 0.5, 0.25])


def report(name, seed=0, *, content=False, baseline=None):
    rng = np.random.default_rng(seed)
    real, sampled, slopes = (at + 0.01 * rng.standard_normal((n, 3)) for at, n in ((TIMES, 7), (TIMES, 5), (1.0, 4)))
    renoised = TIMES + 0.01 * rng.standard_normal((4, 3)) if content else None
    found = report_of(
        TIMES, sampled, real, slope=slopes, content=renoised, name=name, log_snr=log_snr_of, steps=np.array([2, 5, 9])
    )
    calibration = replace(found.calibration, slopes_log_snr=2 * slopes, baseline=baseline or found.calibration.baseline)
    return replace(found, calibration=calibration)


def parts(found):
    calibration = found.calibration
    states = [found.sampled, calibration.real, *([found.content] if found.content else [])]
    yield from (array for part in states for array in (part.t, part.log_snr, part.density))
    yield from (found.steps, found.times, calibration.times, calibration.grid)
    yield from (calibration.slopes, calibration.slopes_log_snr)


@pytest.mark.parametrize("baseline", [None, OWN])
def test_reports_come_back_as_they_were(tmp_path, baseline):
    written = {
        "network": report("network", 1, content=True, baseline=baseline),
        "residual": report("residual", 2, baseline=baseline),
    }
    write_reports(written, tmp_path)
    found = read_reports(tmp_path)
    assert list(found) == ["network", "residual"]
    for name, before in written.items():
        after = found[name]
        assert after.estimator == name
        assert after.baseline == before.baseline
        assert (after.content is None) == (before.content is None)
        assert describe(after.schedule) == describe(before.schedule)
        for a, b in zip(parts(after), parts(before), strict=True):
            np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(found["network"].table(), written["network"].table())


def test_the_table_has_a_row_per_state_and_step(tmp_path):
    write_reports({"network": report("network", content=True)}, tmp_path)
    frame = pd.read_parquet(tmp_path / "shift.parquet")
    assert frame.groupby("states", sort=False).size().to_dict() == {
        "sampled": 15,
        "real": 21,
        "slope": 12,
        "content": 12,
    }
    assert list(frame.columns) == ["estimator", "states", "row", "step", "t", "t_hat", "log_snr_hat"]
    assert list(frame.index) == list(range(len(frame)))
    assert list(frame.step[:4]) == [2, 5, 9, 2]
    assert list(frame.row[:4]) == [0, 0, 0, 1]


def changed(folder, change):
    path = folder / "shift.parquet"
    frame = pd.read_parquet(path)
    change(frame).to_parquet(path)


DAMAGE = {
    "a time above 1": lambda frame: frame.assign(t=frame.t + 0.5),
    "a time below 0": lambda frame: frame.assign(t=frame.t - 0.5),
    "a step twice": lambda frame: frame.assign(step=2),
    "steps that fall": lambda frame: frame.assign(step=-frame.step),
    "rows sorted": lambda frame: frame.sort_values(["states", "step"]),
    "a row less": lambda frame: frame.iloc[1:],
    "a real state less": lambda frame: frame[~((frame.states == "real") & (frame.row == 3))],
    "another estimator": lambda frame: frame.assign(estimator="residual"),
    "no sampled states": lambda frame: frame[frame.states != "sampled"],
    "no slopes": lambda frame: frame[frame.states != "slope"],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_table_that_was_changed_is_refused(tmp_path, kind):
    write_reports({"network": report("network", content=True)}, tmp_path)
    changed(tmp_path, DAMAGE[kind])
    with pytest.raises(ReadingError, match="measure it again"):
        read_reports(tmp_path)


def test_posteriors_of_other_steps_or_levels_are_refused(tmp_path):
    write_reports({"network": report("network")}, tmp_path)
    with np.load(tmp_path / "posteriors.npz") as file:
        arrays = dict(file)
    for name in ("network/sampled", "network/real"):
        for cut in (np.s_[1:], np.s_[:, 1:]):
            np.savez(tmp_path / "posteriors.npz", **{**arrays, name: arrays[name][cut]})
            with pytest.raises(ReadingError, match="are of other steps or levels"):
                read_reports(tmp_path)


def test_levels_at_the_ends_are_read(tmp_path):
    found = report("network")
    times = np.array([1.0, 0.5, 0.0])
    write_reports(
        {"network": replace(found, times=times, calibration=replace(found.calibration, times=times))}, tmp_path
    )
    np.testing.assert_array_equal(read_reports(tmp_path)["network"].times, times)


def test_an_older_folder_is_against_data(tmp_path):
    write_reports({"network": report("network", baseline=OWN)}, tmp_path)
    about = json.loads((tmp_path / "report.json").read_text())
    assert about.pop("baseline") == OWN
    (tmp_path / "report.json").write_text(json.dumps(about))
    assert read_reports(tmp_path)["network"].baseline == DATA


def test_nothing_to_read_says_which_folder_it_should_be(tmp_path):
    with pytest.raises(FileNotFoundError, match="is it a folder that `noiseshift measure` wrote"):
        read_reports(tmp_path)
