"""The same tensors under every wrapper's names are the same network; where there is an average, it is the one that is read."""

import itertools

import pytest
import torch
from safetensors.torch import save_file

import noiseshift as ns
from noiseshift.checkpoints.weights import chosen
from noiseshift.networks.transformer import Transformer, TransformerConfig

MEAN = {
    "pos_embed": torch.rand(1, 16, 8),
    "x_embedder.proj.weight": torch.rand(8, 1, 2, 2),
    "blocks.0.attn.qkv.weight": torch.rand(24, 8),
    "blocks.0.attn.qkv.bias": torch.rand(24),
    "blocks.1.attn.qkv.weight": torch.rand(24, 8),
    "norm.num_batches_tracked": torch.tensor(3),
}
RUNNING = {key: torch.zeros_like(value) for key, value in MEAN.items()}
COUNTS = {"initted": torch.tensor(True), "step": torch.tensor(5)}
TRAINED = [key for key in MEAN if "tracked" not in key]


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def rows(state):
    return [state[key] for key in TRAINED]


AVERAGES = {
    "timm": {"state_dict": RUNNING, "state_dict_ema": MEAN, "optimizer": {"x": MEAN}},
    "timm, compiled": {"state_dict": under("_orig_mod.", RUNNING), "state_dict_ema": under("_orig_mod.module.", MEAN)},
    "ema_pytorch": {**COUNTS, **under("ema_model.", MEAN), **under("online_model.", RUNNING)},
    "ema_pytorch, the other way around": {
        **under("online_model.", RUNNING),
        **under("ema_model.module.", MEAN),
        **COUNTS,
    },
    "ema_pytorch in a trainer": {
        "model": RUNNING,
        "ema": {**COUNTS, **under("ema_model.", MEAN), **under("online_model.", RUNNING)},
    },
    "ema in ema": {"model": RUNNING, "ema": {"ema_model": MEAN, "online_model": RUNNING}},
    "lightning, both as modules": {"state_dict": {**under("model.", RUNNING), **under("ema_model.", MEAN)}, "epoch": 1},
    "lightning, ema first": {"state_dict": {**under("ema.module.", MEAN), **under("net.", RUNNING)}},
    "lightning's WeightAveraging": {
        "state_dict": under("model.", MEAN),
        "current_model_state": under("model.", RUNNING),
    },
    "lightning's callback": {"state_dict": under("model.", RUNNING), "callbacks": {"EMA": {"ema_state_dict": MEAN}}},
    "lightning with others": {
        "state_dict": {**under("model_ema.", MEAN), **under("model.", RUNNING), "vae.conv.weight": torch.rand(4, 4)}
    },
    "latent-diffusion's LitEma": {
        "state_dict": {
            **under("model.", RUNNING),
            **{f"model_ema.{key.replace('.', '')}": value for key, value in MEAN.items()},
            "model_ema.decay": torch.tensor(0.9),
        }
    },
    **{
        f"averages without dots, {name}": {
            "state_dict": {
                **under(f"{raw}.", RUNNING),
                **{f"{name}.{key.replace('.', '')}": value for key, value in MEAN.items()},
            }
        }
        for raw, name in (("net", "net_ema"), ("denoiser", "denoiser_ema"), ("unet", "ema_unet"))
    },
    "AveragedModel": {"n_averaged": torch.tensor(3), **under("module.", MEAN)},
    "AveragedModel beside": {"model": RUNNING, "averaged": {"n_averaged": torch.tensor(3), **under("module.", MEAN)}},
    "swa": {"model": RUNNING, "swa_model": MEAN},
    "under a name of its own": {"model": RUNNING, "mine": {"n_averaged": torch.tensor(3), **under("module.", MEAN)}},
    "DiT": {"model": RUNNING, "ema": MEAN, "opt": {"state": {0: MEAN}}, "args": None},
    "k-diffusion": {"model": RUNNING, "model_ema": MEAN, "gns_stats": None},
    "torchcfm": {"net_model": under("module.", RUNNING), "ema_model": MEAN, "sched": {"a": 1}, "step": 4},
    "BasicSR": {"params": RUNNING, "params_ema": MEAN},
    "a rate": {"model": RUNNING, "ema_0.9999": MEAN},
    "ema_state_dict": {"model_state_dict": RUNNING, "ema_state_dict": MEAN, "optimizer_state_dict": {"x": MEAN}},
    "deepspeed": {"module": RUNNING, "module_ema": under("_forward_module.", MEAN), "ds_version": "0.14"},
    "torch_ema": {
        "model": RUNNING,
        "ema": {"decay": 0.9, "num_updates": 3, "shadow_params": rows(MEAN), "collected_params": None},
    },
    "torch_ema, wrapped": {"state_dict": under("model.module.", RUNNING), "ema": {"shadow_params": rows(MEAN)}},
    "flow_matching": {
        "model": {**under("model.", RUNNING), **{f"shadow_params.{k}": v for k, v in enumerate(rows(MEAN))}}
    },
    **{
        f"called {name}": {"model": RUNNING, name: MEAN}
        for name in ("emaModel", "modelEma", "ModelEMA", "EMAModel", "G_ema")
    },
    "emaModel as a module": {"state_dict": {**under("model.", RUNNING), **under("emaModel.", MEAN)}},
    "ema_unet": {**under("unet.", RUNNING), **under("ema_unet.", MEAN)},
    "twice the same": {"ema": MEAN, "model_ema": {key: value.clone() for key, value in MEAN.items()}, "model": RUNNING},
}
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "model.", "net.")
PLAIN = {
    "plain": MEAN,
    "a counter beside": {**MEAN, "step": torch.tensor(7)},
    "states of generators beside": {
        "model": MEAN,
        "rng_state": torch.zeros(5056, dtype=torch.uint8),
        "betas": torch.rand(9),
    },
    "checkpointed": {
        key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): value for key, value in MEAN.items()
    },
    "FSDP within": {
        f"_fsdp_wrapped_module.{k.replace('blocks.0.', 'blocks.0._fsdp_wrapped_module.')}": v for k, v in MEAN.items()
    },
    "deepspeed's": {"module": MEAN, "ds_version": "0.14", "optimizer": None},
    "odd name": {"my_network": MEAN},
    **{f"{a}{b}": under(a + b, MEAN) for a, b in itertools.product(WRAPPERS, repeat=2)},
    **{f"state_dict, {a}": {"state_dict": under(a, MEAN), "global_step": 1} for a in WRAPPERS},
}


def same(found, wanted):
    assert found.keys() >= wanted.keys()
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert key == "norm.num_batches_tracked" or torch.equal(found[key], value)


@pytest.mark.parametrize("case", list(AVERAGES))
def test_the_average_is_taken_and_named(case):
    found = chosen(AVERAGES[case])
    same(found.state, MEAN)
    assert found.averaged
    assert found.shown.endswith(", averaged")


@pytest.mark.parametrize("case", list(PLAIN))
def test_wrappers_leave_no_trace(case):
    found = chosen(PLAIN[case])
    same(found.state, MEAN)
    assert not found.averaged


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"ema_0.999": MEAN, "ema_0.9999": RUNNING}, "several averaged weights (ema_0.999, ema_0.9999)"),
        ({"emas": [MEAN, RUNNING], "model": RUNNING}, "several averaged weights (emas/0, emas/1)"),
        ({"model": RUNNING, "optimizer_states": [{"ema": rows(MEAN)}]}, "averaged weights (optimizer_states/0/ema)"),
        (
            {"model": RUNNING, "optimizer": {"state": {0: {"exp_avg": MEAN["pos_embed"], "ema": MEAN["pos_embed"]}}}},
            "averaged weights (optimizer/state/0/ema)",
        ),
        ({"ema": MEAN, "swa": RUNNING, "model": RUNNING}, "several averaged weights (ema, swa)"),
        ({"first": MEAN, "second": RUNNING}, "several weights (first, second)"),
        ({"state_dict": {**under("model.", MEAN), **under("net.", RUNNING)}}, "several weights (state_dict/model"),
        ({"model": RUNNING, "target_model": MEAN}, "several weights (model, target_model)"),
        ({"model": RUNNING, "smoothed": MEAN, "step": 3}, "which are the averaged ones is not said"),
        ({"state_dict": {**under("model.", RUNNING), **under("slow.", MEAN)}}, "several weights (state_dict/model"),
        ({"ema": {"shadow_params": rows(MEAN)}}, "is not known"),
        ({"model": RUNNING, "ema": {"shadow_params": [*rows(MEAN)[:2], torch.rand(24, 8)]}}, "is not known"),
        ({"module": {"_flat_param": torch.rand(9, 9)}}, "FSDP's flat ones"),
        ({"optimizer": {"x": MEAN}}, "holds no tensors"),
    ],
)
def test_what_is_not_certain_is_refused_and_named(content, says):
    with pytest.raises(ns.CheckpointError) as caught:
        chosen(content)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_averages_of_several_lengths_are_no_network_and_not_passed_over():
    """ema_pytorch's PostHocEMA beside what it averages."""
    several = {**under("ema_models.0.ema_model.", MEAN), **under("ema_models.1.ema_model.", RUNNING)}
    found = chosen({**several, **under("online_model.", RUNNING)})
    assert found.averaged
    assert found.state.keys() != MEAN.keys()


def test_the_trained_weights_beside_others_of_their_kind_are_taken_where_that_is_said():
    same(chosen({"model": MEAN, "model_init": {k: v[:1] for k, v in RUNNING.items() if v.ndim}}).state, MEAN)
    same(chosen({"model": MEAN, "online_model": RUNNING}).state, MEAN)


def test_where_the_network_is_at_hand_its_names_decide():
    inner = {"net.0.weight": torch.rand(3, 3), "net.0.bias": torch.rand(3)}
    assert chosen({"state_dict": under("model.", inner)}).state.keys() != inner.keys()
    for content in (inner, under("module.", inner), {"state_dict": under("model.", inner)}):
        assert chosen(content, inner).state.keys() == inner.keys()
    pair = {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2, 2), "c.weight": torch.zeros(2, 2)}
    content = {"model": pair, "ema": {"shadow_params": [torch.ones(2, 2), 2 * torch.ones(2, 2)]}}
    with pytest.raises(ns.CheckpointError, match="is not known"):
        chosen(content)
    found = chosen(content, pair, ["a.weight", "c.weight"]).state
    assert [float(found[key][0, 0]) for key in pair] == [1, 0, 2]


def test_info_says_which_set_was_taken(tmp_path):
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    state = network.state_dict()
    card = {"family": "sit", "heads": 2}
    for content, says in (
        ({"model": {k: 0 * v for k, v in state.items()}, "ema": state}, "ema, averaged"),
        ({"state_dict": under("net.", state)}, "state_dict"),
        (state, None),
    ):
        torch.save(content, tmp_path / "x.pt")
        assert ns.load(tmp_path / "x.pt", card=card).card.provenance.get("weights") == says


NAMES = {
    "model010000.pt": ("ema_0.9999_010000.pt", "ema_0.999_010000.pt"),  # guided-diffusion's
    "model020000.pt": (),
    "ema_0.9999_010000.pt": None,
    "ema_0.999_010000.pt": None,
    "opt010000.pt": (),
    "unet.pt": ("unet-EMA.pt",),
    "unet-EMA.pt": None,
    "schema.pt": (),
    "ema.safetensors": None,
}


@pytest.mark.parametrize("name", list(NAMES))
def test_averages_in_a_file_of_their_own_are_said(tmp_path, name):
    network = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3))
    for other in NAMES:
        (tmp_path / other).touch()
    if name.endswith(".pt"):
        torch.save(network.state_dict(), tmp_path / name)
    else:
        save_file(network.state_dict(), tmp_path / name)
    found = ns.load(tmp_path / name, card={"family": "sit", "heads": 2})
    said = found.card.provenance.get("weights")
    assert said == ("the whole file, by the file's name, averaged" if NAMES[name] is None else None)
    assert found.averages_beside == (NAMES[name] or ())
    checks = str(ns.preflight(found, None))
    assert all(other in checks for other in found.averages_beside)
    assert ("averages:" in checks) == bool(found.averages_beside)


def test_an_average_in_the_file_needs_none_beside_it(tmp_path):
    state = Transformer(TransformerConfig(8, 1, 2, 16, 1, 2, classes=3)).state_dict()
    torch.save({"model": state, "ema": state}, tmp_path / "run.pt")
    torch.save(state, tmp_path / "run_ema.pt")
    assert ns.load(tmp_path / "run.pt", card={"family": "sit", "heads": 2}).averages_beside == ()


def test_a_network_of_convolutions_in_blocks_is_no_transformer(tmp_path):
    state = {
        "blocks.0.conv.weight": torch.rand(4, 4, 3, 3),
        "blocks.1.norm.weight": torch.rand(4),
        "head.weight": torch.rand(4, 4),
    }
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ns.CheckpointError, match="of no network known here: give module:function"):
        ns.load(tmp_path / "x.pt")


KEPT_BY_OPTIMIZERS = {
    "Lookahead": {"slow_weights": rows(MEAN)},
    "timm's Lookahead": {"state": {0: {"lookahead_slow_buff": MEAN["pos_embed"]}}},
    "ASGD": {"state": {0: {"ax": MEAN["pos_embed"], "eta": torch.tensor(1.0)}}},
    "SWA of contrib": {"state": {0: {"swa_buffer": MEAN["pos_embed"]}}},
}


@pytest.mark.parametrize("name", KEPT_BY_OPTIMIZERS)
def test_averages_that_an_optimizer_keeps_are_not_passed_over(name):
    with pytest.raises(ns.CheckpointError, match="its averaged weights \\(optimizer/"):
        chosen({"model": RUNNING, "optimizer": KEPT_BY_OPTIMIZERS[name]})


def test_moments_of_gradients_are_no_averages():
    moments = {"exp_avg": MEAN["pos_embed"], "exp_avg_sq": MEAN["pos_embed"], "max_exp_avg_sq": MEAN["pos_embed"]}
    same(chosen({"model": RUNNING, "optimizer": {"state": {0: moments}}}).state, RUNNING)


@pytest.mark.parametrize("training", [True, False])
def test_a_schedule_free_optimizer_must_be_saved_in_evaluation(training):
    groups = [{"train_mode": training, "weight_sum": 2.0, "lr": 1e-3}]
    content = {"model": RUNNING, "optimizer": {"state": {0: {"z": MEAN["pos_embed"]}}, "param_groups": groups}}
    if not training:
        same(chosen(content).state, RUNNING)
        return
    with pytest.raises(ns.CheckpointError, match=r"optimizer\.eval\(\) before saving"):
        chosen(content)


def test_averages_in_one_set_with_a_network_that_is_at_hand():
    content = {**under("module.", RUNNING), **under("ema_model.module.", MEAN)}
    for names in (None, list(RUNNING)):
        found = chosen(content, names)
        same(found.state, MEAN)
        assert found.averaged
