"""Whole diffusers pipelines with random weights, small enough to run in a test: built by diffusers and transformers
themselves, with a hand-made vocabulary, and saved as their users save them."""

import json

import diffusers
import torch

SIDE = 8  # latents a side; pictures have twice that
WORDS = ("a", "red", "blue", "cat", "dog", "on", "grass")


def autoencoder(channels=4, **config):
    torch.manual_seed(1)
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=2 * SIDE,
        **config,
    ).eval()


def unet(seed=0, **config):
    torch.manual_seed(seed)
    usual = {
        "down_block_types": ("DownBlock2D",) * 2,
        "up_block_types": ("UpBlock2D",) * 2,
        "block_out_channels": (8, 8),
    }
    given = {"in_channels": 1, "out_channels": 1, **usual, **config}
    return diffusers.UNet2DModel(sample_size=SIDE, layers_per_block=1, norm_num_groups=4, **given).eval()


def class_transformer(classes=5):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=SIDE,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_num_groups=4,
    )
    return shaken(net)


def shaken(network):
    """Random where the initialisation is zero, or the output would not depend on the condition."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        if parameter.ndim > 1 or not bool(parameter.any()):
            parameter.data += 0.15 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def dit(path, classes=5):
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    pipe = diffusers.DiTPipeline(class_transformer(classes), autoencoder(scaling_factor=0.18215), scheduler)
    pipe.save_pretrained(path)
    return pipe


def ldm(path):
    attention = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    network = unet(in_channels=3, out_channels=3, attention_head_dim=8, **attention)
    coder = diffusers.VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=16,
        norm_num_groups=4,
    )
    pipe = diffusers.LDMPipeline(coder.eval(), network, diffusers.DDIMScheduler(clip_sample=False))
    pipe.save_pretrained(path)
    return pipe


def stable_diffusion(path, **scheduler):
    pipe = diffusers.StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.18215),
        unet=text_unet(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(path.parent / "words"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(path)
    return pipe


def stable_diffusion_xl(path):
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
        "cross_attention_dim": 32,
    }
    words = path.parent / "words"
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13025),
        unet=text_unet(**added),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=clip_tokenizer(words),
        tokenizer_2=clip_tokenizer(words),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
        ),
    )
    pipe.save_pretrained(path)
    return pipe


def stable_diffusion_3(path):
    torch.manual_seed(0)
    network = diffusers.SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    words = path.parent / "words"
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=shaken(network),
        vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip(projected=True),
        text_encoder_2=clip(projected=True),
        text_encoder_3=t5(),
        tokenizer=clip_tokenizer(words),
        tokenizer_2=clip_tokenizer(words),
        tokenizer_3=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(path)
    return pipe


def flux(path, guided=True):
    torch.manual_seed(0)
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    words = path.parent / "words"
    pipe = diffusers.FluxPipeline(
        transformer=shaken(network),
        vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip(),
        text_encoder_2=t5(),
        tokenizer=clip_tokenizer(words),
        tokenizer_2=t5_tokenizer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    pipe.save_pretrained(path)
    return pipe


def text_unet(**config):
    torch.manual_seed(0)
    given = {"cross_attention_dim": 16, **config}
    return diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        **given,
    ).eval()


def clip(projected=False):
    import transformers

    torch.manual_seed(2)
    config = transformers.CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    network = kind(config)
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network.eval()


def _vocabulary():
    letters = sorted(set("".join(WORDS)))
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    return {token: i for i, token in enumerate(tokens)}


def clip_tokenizer(folder):
    """Letters for tokens: no merges are needed to tell prompts apart."""
    import transformers

    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def t5():
    import transformers

    torch.manual_seed(4)
    config = transformers.T5Config(
        vocab_size=32, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2, relative_attention_num_buckets=8
    )
    return transformers.T5EncoderModel(config).eval()


def t5_tokenizer():
    import tokenizers
    import transformers

    words = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS))]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(words, unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.T5TokenizerFast(
        tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", extra_ids=0, model_max_length=24
    )
