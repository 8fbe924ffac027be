"""vit_b_16, pruned: 86,429,416 -> 43,213,587 parameters (-50.0 %),
1.5 G -> 725.2 M multiply-accumulates at 3x64x64.

Generated from torchvision/models/vision_transformer.py (class VisionTransformer); edit freely.
Measure ChannelNorm, method Global.

    from vit_b_16_50 import vit_b_16
    model = vit_b_16(weights="vit_b_16_50_pruned_v1.0.pth")
"""

import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


class EncoderBlock(nn.Module):
    """Transformer encoder block."""

    def __init__(self, hidden_channels: int) -> None:
        super().__init__()
        # Attention block
        self.ln_1 = nn.LayerNorm(768, eps=1e-06)
        self.self_attention = nn.MultiheadAttention(768, 12, batch_first=True)
        self.dropout = nn.Dropout(p=0.0)

        # MLP block
        self.ln_2 = nn.LayerNorm(768, eps=1e-06)
        self.mlp = nn.Sequential(
            nn.Linear(768, hidden_channels),
            nn.GELU(),
            nn.Dropout(p=0.0),
            nn.Linear(hidden_channels, 768),
            nn.Dropout(p=0.0),
        )

    def forward(self, input: torch.Tensor):
        torch._assert(
            input.dim() == 3, f"Expected (batch_size, seq_length, hidden_dim) got {input.shape}"
        )
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = self.dropout(x)
        x = x + input

        y = self.ln_2(x)
        y = self.mlp(y)
        return x + y


class Encoder(nn.Module):
    """Transformer Model Encoder for sequence to sequence translation."""

    def __init__(self) -> None:
        super().__init__()
        # Note that batch_size is on the first dim because
        # we have batch_first=True in nn.MultiAttention() by default
        self.pos_embedding = nn.Parameter(torch.empty(1, 17, 768).normal_(std=0.02))  # from BERT
        self.dropout = nn.Dropout(p=0.0)
        self.layers = nn.Sequential(
            OrderedDict(
                {
                    "encoder_layer_0": EncoderBlock(779),
                    "encoder_layer_1": EncoderBlock(766),
                    "encoder_layer_2": EncoderBlock(752),
                    "encoder_layer_3": EncoderBlock(739),
                    "encoder_layer_4": EncoderBlock(723),
                    "encoder_layer_5": EncoderBlock(708),
                    "encoder_layer_6": EncoderBlock(690),
                    "encoder_layer_7": EncoderBlock(672),
                    "encoder_layer_8": EncoderBlock(653),
                    "encoder_layer_9": EncoderBlock(632),
                    "encoder_layer_10": EncoderBlock(821),
                    "encoder_layer_11": EncoderBlock(812),
                }
            )
        )
        self.ln = nn.LayerNorm(768, eps=1e-06)

    def forward(self, input: torch.Tensor):
        torch._assert(
            input.dim() == 3, f"Expected (batch_size, seq_length, hidden_dim) got {input.shape}"
        )
        input = input + self.pos_embedding
        return self.ln(self.layers(self.dropout(input)))


class VisionTransformer(nn.Module):
    """Vision Transformer as per https://arxiv.org/abs/2010.11929."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.image_size = 64
        self.patch_size = 16
        self.hidden_dim = 768

        self.conv_proj = nn.Conv2d(3, 768, kernel_size=16, stride=16)

        # Add a class token
        self.class_token = nn.Parameter(torch.zeros(1, 1, self.hidden_dim))

        self.encoder = Encoder()

        self.heads = nn.Sequential(OrderedDict({"head": nn.Linear(768, num_classes)}))

        if isinstance(self.conv_proj, nn.Conv2d):
            # Init the patchify stem
            fan_in = (
                self.conv_proj.in_channels
                * self.conv_proj.kernel_size[0]
                * self.conv_proj.kernel_size[1]
            )
            nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / fan_in))
            if self.conv_proj.bias is not None:
                nn.init.zeros_(self.conv_proj.bias)
        elif self.conv_proj.conv_last is not None and isinstance(
            self.conv_proj.conv_last, nn.Conv2d
        ):
            # Init the last 1x1 conv of the conv stem
            nn.init.normal_(
                self.conv_proj.conv_last.weight,
                mean=0.0,
                std=math.sqrt(2.0 / self.conv_proj.conv_last.out_channels),
            )
            if self.conv_proj.conv_last.bias is not None:
                nn.init.zeros_(self.conv_proj.conv_last.bias)

        if hasattr(self.heads, "pre_logits") and isinstance(self.heads.pre_logits, nn.Linear):
            fan_in = self.heads.pre_logits.in_features
            nn.init.trunc_normal_(self.heads.pre_logits.weight, std=math.sqrt(1 / fan_in))
            nn.init.zeros_(self.heads.pre_logits.bias)

        if isinstance(self.heads.head, nn.Linear):
            nn.init.zeros_(self.heads.head.weight)
            nn.init.zeros_(self.heads.head.bias)

    def _process_input(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        p = self.patch_size
        torch._assert(
            h == self.image_size, f"Wrong image height! Expected {self.image_size} but got {h}!"
        )
        torch._assert(
            w == self.image_size, f"Wrong image width! Expected {self.image_size} but got {w}!"
        )
        n_h = h // p
        n_w = w // p

        # (n, c, h, w) -> (n, hidden_dim, n_h, n_w)
        x = self.conv_proj(x)
        # (n, hidden_dim, n_h, n_w) -> (n, hidden_dim, (n_h * n_w))
        x = x.reshape(n, self.hidden_dim, n_h * n_w)

        # (n, hidden_dim, (n_h * n_w)) -> (n, (n_h * n_w), hidden_dim)
        # The self attention layer expects inputs in the format (N, S, E)
        # where S is the source sequence length, N is the batch size, E is the
        # embedding dimension
        x = x.permute(0, 2, 1)

        return x

    def forward(self, x: torch.Tensor):
        # Reshape and permute the input tensor
        x = self._process_input(x)
        n = x.shape[0]

        # Expand the class token to the full batch
        batch_class_token = self.class_token.expand(n, -1, -1)
        x = torch.cat([batch_class_token, x], dim=1)

        x = self.encoder(x)

        # Classifier "token" as used by standard language architectures
        x = x[:, 0]

        x = self.heads(x)

        return x


def vit_b_16(weights: str | Path | None = None, **kwargs) -> VisionTransformer:
    """The network; given a path, with its weights."""
    model = VisionTransformer(**kwargs)
    if weights is not None:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        for name in [name for name in state if f"{name}.scale" in state]:  # int8
            state[name] = state[name] * state.pop(f"{name}.scale")
        model.load_state_dict(state)
    return model
