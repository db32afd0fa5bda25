"""The torchmetrics metric and the recorder read what `measure` reads."""

import dataclasses

import numpy as np
import pytest
import torch

import noiseshift as ns


@pytest.fixture(scope="module")
def scene():
    target = ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), torch.linspace(0.1, 2, 64).double())
    model, estimator = target.model(ns.Linear()), target.estimator(ns.Linear())
    times = ns.time_grid(model, 6)
    real = target.sample(64, torch.Generator().manual_seed(1)).float()
    calibration = ns.calibrate(estimator, real, times[1:-1])
    runs = [torch.randn(16, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    return model, estimator, calibration, [list(ns.sample(model, x, times)) for x in runs]


def test_the_metric_agrees_with_measure_and_resumes(scene):
    _, estimator, calibration, runs = scene
    metric = ns.NoiseShift(estimator, calibration)
    for step in runs[0]:
        metric.update(step.x, step.t)
    kept = metric.state_dict()
    resumed = ns.NoiseShift(estimator, calibration)
    resumed.load_state_dict(kept)
    for step in runs[1]:
        resumed.update(step.x, step.t)
    direct = ns.measure(iter([*runs[0], *runs[1]]), estimator, calibration, content=False).table()
    np.testing.assert_allclose(resumed.compute().numpy(), direct["shift"])
    np.testing.assert_allclose(resumed.report().table().low, direct.low)
    assert resumed.report().table().n.iloc[0] == 32
    resumed.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert bool(resumed.compute().isnan().all())
    with pytest.raises(ValueError, match="every calibrated time"):
        resumed.report()


def test_times_that_were_not_calibrated_are_passed_over(scene):
    _, estimator, calibration, _ = scene
    metric = ns.NoiseShift(estimator, calibration)
    metric.update(torch.zeros(2, 64), 0.123)
    assert not metric.readings


def test_a_recorder_reads_with_the_instrument_that_it_is_given(scene):
    _, _, instrument, runs = scene
    some = dataclasses.replace(instrument, limit=20)
    recorder = ns.Recorder(ns.Linear(), {"exact": some})
    for steps in runs:
        for step in steps[:-2]:  # the last calibrated time is not met
            recorder.record(step.x, step.t)
    found = recorder.report()
    direct = ns.measure(iter([*runs[0], *runs[1]]), some, content=False).table().iloc[:-1]
    assert found.estimator == "exact"
    for column in ("shift", "low", "high", "n"):
        np.testing.assert_allclose(found.table()[column], direct[column])
    recorder.record(runs[0][1].x, 0.123)
    recorder.record(runs[1][1].x, 0.123)
    with pytest.raises(ValueError, match=r"not calibrated at t = 0\.1230"):
        recorder.report()


def test_the_metric_draws_itself(scene):
    _, estimator, calibration, runs = scene
    metric = ns.NoiseShift(estimator, calibration)
    for step in runs[0]:
        metric.update(step.x, step.t)
    _, ax = metric.plot()
    assert ax.get_ylabel().startswith("noise shift")


def gaussian():
    return ns.targets.Gaussian(torch.zeros(64, dtype=torch.float64), torch.linspace(0.1, 2, 64).double())


def _rank(rank, folder, states, t_cond, calibration):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        metric = ns.NoiseShift(gaussian().estimator(ns.Linear()), calibration)
        mine = slice(0, 20) if rank == 0 else slice(20, 60)
        for t, x in zip(t_cond, states, strict=True):
            metric.update(x[mine], t)
        torch.save(metric.compute(), f"{folder}/shift{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_with_uneven_shares_find_what_one_finds(tmp_path):
    target, generator = gaussian(), torch.Generator().manual_seed(0)
    estimator, t_cond = target.estimator(ns.Linear()), torch.tensor([0.6, 0.4], dtype=torch.float64)
    calibration = ns.calibrate(estimator, target.sample(60, generator), t_cond)
    states = [
        (1 - t) * target.sample(60, generator) + t * torch.randn(60, 64, generator=generator) for t in t_cond + 0.02
    ]
    torch.multiprocessing.spawn(_rank, (str(tmp_path), states, t_cond, calibration), nprocs=2)
    alone = ns.NoiseShift(estimator, calibration)
    for t, x in zip(t_cond, states, strict=True):
        alone.update(x, t)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"shift{rank}.pt"), alone.compute())
