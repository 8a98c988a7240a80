"""Makes `hubert_golden.npz`: a toy HuBERT and quantizers, and what they compute.

Run with torch and transformers installed: `python tests/data/make_hubert_golden.py`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

HUBERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "conv_dim": (8, 12, 8),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
LENGTHS = (390, 250, 90)
AUDIO_LEVEL = 0.1
QUANTIZER = {"input_size": 16, "hidden_size": 12, "output_size": 20}
INTERMEDIATE_SIZE = 14
# Not a whole number of turns of our loop, which has 8 steps.
NUM_FRAMES = 21


class Quantizer(torch.nn.Module):
    """The community's network without its log-softmax, from its description."""

    def __init__(self, input_size, hidden_size, output_size, intermediate_size=0):
        super().__init__()
        self.lstm = torch.nn.LSTM(input_size, hidden_size, 2, batch_first=True)
        if intermediate_size:
            self.intermediate = torch.nn.Linear(hidden_size, intermediate_size)
        self.fc = torch.nn.Linear(intermediate_size or hidden_size, output_size)

    def forward(self, x):
        x, _ = self.lstm(x)
        if hasattr(self, "intermediate"):
            x = self.intermediate(x)
        return self.fc(x)


@torch.no_grad()
def random_hubert(**fields):
    """A transformers HubertModel whose weights are all random and lively."""
    model = transformers.HubertModel(transformers.HubertConfig(**fields)).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
        elif name.startswith("encoder.layers"):
            parameter.mul_(8)
        elif name.endswith("original0"):
            parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return model


@torch.no_grad()
def random_quantizer(**sizes):
    """A quantizer whose gates open and close."""
    model = Quantizer(**sizes).eval()
    for parameter in model.parameters():
        parameter.mul_(2)
    return model


def tensors(model):
    """The tensors under the names of the published files."""
    arrays = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        arrays[name] = tensor.numpy()
    return arrays


@torch.no_grad()
def main():
    torch.manual_seed(0)
    hubert = random_hubert(**HUBERT)
    audio = AUDIO_LEVEL * torch.randn(len(LENGTHS), max(LENGTHS))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    audio *= mask
    arrays = {"audio": audio.numpy(), "mask": mask.numpy()}
    batch = hubert(audio, attention_mask=mask.long(), output_hidden_states=True)
    arrays["batch"] = torch.stack(batch.hidden_states).numpy()
    for row, length in enumerate(LENGTHS):
        alone = hubert(audio[row : row + 1, :length], output_hidden_states=True)
        arrays[f"alone_{row}"] = torch.stack(alone.hidden_states)[:, 0].numpy()
    arrays |= {f"hubert/{name}": value for name, value in tensors(hubert).items()}
    frames = torch.randn(1, NUM_FRAMES, QUANTIZER["input_size"])
    arrays["frames"] = frames.numpy()
    for version, size in enumerate((0, INTERMEDIATE_SIZE)):
        model = random_quantizer(**QUANTIZER, intermediate_size=size)
        arrays[f"logits_{version}"] = model(frames).numpy()
        weights = tensors(model).items()
        arrays |= {f"quantizer_{version}/{name}": value for name, value in weights}
    np.savez_compressed(Path(__file__).with_name("hubert_golden.npz"), **arrays)


if __name__ == "__main__":
    main()
