"""Makes `encodec_golden.npz`: toy EnCodecs of transformers and what they compute.

Run with torch and transformers installed: `python tests/data/make_encodec_golden.py`.
"""

import json
from pathlib import Path

import numpy as np
import torch
import transformers

# Shorter than the first convolution reaches (7), as long, longer.
NUM_FRAMES = (1, 6, 7, 20)
# Less than a frame of 8 samples, a frame and a sample, many frames.
NUM_SAMPLES = (1, 9, 75)
# Standard deviations.
LATENT_LEVEL = 0.3
AUDIO_LEVEL = 0.3

SHARED = {
    "num_filters": 4,
    "hidden_size": 8,
    "upsampling_ratios": [4, 2],
    "codebook_size": 16,
    "target_bandwidths": [12.0, 24.0, 48.0],
}
CODECS = {
    "mono": {**SHARED, "num_residual_layers": 2},
    "stereo": {
        **SHARED,
        "num_filters": 2,
        "target_bandwidths": [12.0, 24.0],
        "audio_channels": 2,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "num_lstm_layers": 1,
    },
}


def _amplify(network, outputs, level):
    """Centres the outputs of a weight-normed network and makes them that loud."""
    last = network.layers[-1].conv
    mean = outputs.mean(dim=(0, 2))
    factor = level / (outputs - mean[:, None]).std()
    last.parametrizations.weight.original0.mul_(factor)
    last.bias.sub_(mean).mul_(factor)


@torch.no_grad()
def random_codec(num_samples, **fields):
    """A transformers EnCodec with random weights and lively latents, codes and audio.

    Returns:
        (model, audio (3, channels, num_samples))
    """
    config = transformers.EncodecConfig(**fields)
    model = transformers.EncodecModel(config).eval()
    audio = AUDIO_LEVEL * torch.randn(3, config.audio_channels, num_samples)
    for name, parameter in model.named_parameters():
        if ".norm." in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    if config.norm_type == "weight_norm":
        _amplify(model.encoder, model.encoder(audio), LATENT_LEVEL)
    for index, layer in enumerate(model.quantizer.layers):
        level = LATENT_LEVEL * 0.95**index
        layer.codebook.embed.copy_(level * torch.randn_like(layer.codebook.embed))
        layer.codebook.embed_avg.copy_(torch.randn_like(layer.codebook.embed))
        layer.codebook.cluster_size.copy_(torch.rand(config.codebook_size))
    if config.norm_type == "weight_norm":
        latents = LATENT_LEVEL * torch.randn(3, config.hidden_size, 20)
        _amplify(model.decoder, model.decoder(latents), AUDIO_LEVEL)
    return model, audio


def checkpoint(model):
    """The tensors under the names of the published files."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        tensors[name] = tensor.numpy()
    return tensors


@torch.no_grad()
def golden(model, audio):
    """Latents and codes of several lengths of audio, audio of several of codes."""
    config = model.config
    arrays = {"audio": audio.numpy()}
    bandwidth = config.target_bandwidths[-1]
    for length in NUM_SAMPLES:
        heard = audio[..., :length]
        arrays[f"latent_{length}"] = model.encoder(heard).numpy()
        codes = model.encode(heard, bandwidth=bandwidth).audio_codes[0]
        arrays[f"codes_{length}"] = codes.numpy().astype("uint8")
    shape = (3, model.quantizer.num_quantizers, max(NUM_FRAMES))
    codes = torch.randint(config.codebook_size, shape)
    arrays["codes"] = codes.numpy().astype("uint8")
    for length in NUM_FRAMES:
        decoded = model.decode(codes[None, ..., :length], [None]).audio_values
        arrays[f"decoded_{length}"] = decoded.numpy()
    return arrays


def main():
    torch.manual_seed(0)
    arrays = {}
    for codec, fields in CODECS.items():
        model, audio = random_codec(max(NUM_SAMPLES), **fields)
        arrays[f"{codec}/config"] = np.array(json.dumps(fields))
        for name, array in golden(model, audio).items():
            arrays[f"{codec}/{name}"] = array
        for name, array in checkpoint(model).items():
            arrays[f"{codec}/weights/{name}"] = array
    np.savez_compressed(Path(__file__).with_name("encodec_golden.npz"), **arrays)


if __name__ == "__main__":
    main()
