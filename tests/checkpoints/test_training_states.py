"""What diffusers' training scripts keep on their way: checkpoint-N with unet/ and unet_ema/, beside the pipeline's index."""

import diffusers
import pytest
import torch
from tiny_pipelines import unet

import noiseshift as ns
from noiseshift.checkpoints.loading import load


@pytest.fixture
def training(tmp_path):
    """A training's folder: the pipeline, and a state of it, the network sharded and its average beside it."""
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    diffusers.DDPMPipeline(unet(0), scheduler).save_pretrained(tmp_path)
    state = tmp_path / "checkpoint-500"
    unet(1).save_pretrained(state / "unet", max_shard_size="20KB")
    average = diffusers.training_utils.EMAModel(
        unet(2).parameters(), model_cls=diffusers.UNet2DModel, model_config=unet(2).config
    )
    average.save_pretrained(state / "unet_ema")
    return tmp_path


X, T = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)


def answer(network):
    with torch.no_grad():
        return network(X, 499).sample


def predicted(checkpoint):
    return checkpoint.model(X, T).v


def test_the_average_of_a_training_state_is_read(training):
    checkpoint = load(training / "checkpoint-500")
    torch.testing.assert_close(predicted(checkpoint), answer(unet(2)), rtol=1e-4, atol=1e-4)
    assert checkpoint.card.prediction == "v_prediction"
    assert checkpoint.card.provenance["weights"] == "unet_ema of checkpoint-500"
    assert checkpoint.name == "checkpoint-500"
    assert checkpoint.hash != load(training).hash
    assert len(list(ns.sample(checkpoint.model, X, ns.time_grid(checkpoint.model, 2)))) == 3


def test_a_state_without_an_average_has_its_network_in_shards(training):
    import shutil

    state = training / "checkpoint-500"
    assert len(list((state / "unet").glob("*.safetensors"))) > 1
    shutil.rmtree(state / "unet_ema")
    torch.testing.assert_close(predicted(load(state)), answer(unet(1)), rtol=1e-4, atol=1e-4)


def test_the_pipeline_itself_is_read_as_ever(training):
    torch.testing.assert_close(predicted(load(training)), answer(unet(0)), rtol=1e-4, atol=1e-4)


def test_a_state_away_from_its_training_names_the_remedy(training, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "checkpoint-500"
    (training / "checkpoint-500").rename(elsewhere)
    with pytest.raises(ns.CheckpointError, match="whose schedule its own folder does not say: give the folder"):
        load(elsewhere)


def test_oblong_pictures(training):
    checkpoint = load(training, size=(8, 16))
    assert checkpoint.shape == (1, 8, 16)
    x = torch.randn(2, 1, 8, 16)
    with torch.no_grad():
        expected = unet(0)(x, 499).sample
    torch.testing.assert_close(checkpoint.model(x, T).v, expected, rtol=1e-4, atol=1e-4)
    assert load(training, size=(8, 8)).shape == (1, 8, 8)
    with pytest.raises(ns.CheckpointError, match="works on 28 pixels per side, not 8x16: leave the size out"):
        load("fashion-sit", size=(8, 16))
