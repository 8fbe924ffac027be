"""The networks that `benchmarks.coverage` prunes and writes, and how each is built.

Weights are random and so are batch-norm statistics: at 0 and 1 these would hide wrong indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import list_models

VIDEO = {
    "mc3_18": (4, 32),
    "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224),
    "r2plus1d_18": (4, 32),
    "r3d_18": (4, 32),
    "s3d": (16, 224),  # its average pool has a kernel of (2, 7, 7)
    "swin3d_b": (4, 64),
    "swin3d_s": (4, 64),
    "swin3d_t": (4, 64),
}
"""Frames and pixels; the networks of `mvit` have a table of positions for theirs."""

SIZES = {"alexnet": 96, "maxvit_t": 224, "inception_v3": 299, "vit_h_14": 56}
"""Pixels where 64 are too few; Inception's auxiliary head runs over 17x17 positions."""

TIMM = """
    resnet10t resnetaa34d resnetblur18 resnetrs50 resnext26ts wide_resnet50_2 legacy_seresnet18
    seresnet18 seresnext26ts ecaresnet26t eca_resnext26ts gcresnext26ts skresnet18 resnest14d
    res2net50_14w_8s res2next50 resnetv2_18 resnetv2_50x1_bit resnetv2_50d_frn tresnet_m
    regnetx_002 regnety_002 regnetv_040 regnetz_b16
    efficientnet_b0 efficientnet_es efficientnet_lite0 efficientnet_b0_gn efficientnet_cc_b0_4e
    efficientnetv2_rw_t tf_efficientnetv2_b0 mixnet_s mobilenetv1_100 mobilenetv2_035
    mobilenetv3_small_050 mobilenet_edgetpu_v2_xs mobilenetv4_conv_small_035 mnasnet_small
    semnasnet_050 spnasnet_100 fbnetc_100 fbnetv3_b hardcorenas_a tinynet_e lcnet_035 lcnetv2_small
    ghostnet_050 ghostnetv2_100 ghostnetv3_050 repghostnet_050 rexnet_100 rexnetr_100
    hrnet_w18_small dla46_c dla46x_c dla60_res2net dpn48b densenet121 densenetblur121d
    ese_vovnet19b_slim vovnet39a cspresnet50 cspresnext50 cspdarknet53 cspnext_tiny darknet17
    sedarknet21 darknetaa53 cs3darknet_s cs3sedarknet_l cs3edgenet_x
    repvgg_a0 repvgg_d2se mobileone_s0 gernet_s vgg11 vgg11_bn selecsls42 hgnet_tiny hgnetv2_b0
    convnext_atto convnext_zepto_rms convnextv2_atto convmixer_768_32 inception_next_atto
    inception_v3 inception_v4 inception_resnet_v2 legacy_xception xception41 xception41p
    nasnetalarge pnasnet5large
    nfnet_l0 dm_nfnet_f0 eca_nfnet_l0 nf_regnet_b0 nf_resnet26 nf_seresnet26
    fastvit_t8 fasternet_t0 repvit_m0_9 starnet_s050 mambaout_femto rdnet_tiny focalnet_tiny_srf
    poolformer_s12 poolformerv2_s12 convformer_s18
    ecaresnet50d_pruned ecaresnet101d_pruned efficientnet_b1_pruned
""".split()  # noqa: SIM905 - a hundred lines otherwise
"""Of every convolutional family of timm the smallest member, or nearly; and its pruned networks."""

HYBRID = """
    caformer_s18 coat_lite_tiny edgenext_xx_small efficientformer_l1 efficientformerv2_s0
    efficientvit_b0 efficientvit_m0 halonet26t botnet26t_256 sebotnet33ts_256 lambda_resnet26t
    bat_resnext26ts coatnet_pico_rw_224 maxvit_pico_rw_256 levit_conv_128s mobilevit_xxs
    mobilevitv2_050 mobilenetv4_hybrid_medium_075 nextvit_small shvit_s1 swiftformer_xs
    tiny_vit_5m_224 visformer_tiny
""".split()  # noqa: SIM905
"""Families of timm that are convolutional in part, with attention in the rest."""


def networks() -> dict[str, tuple[str, ...]]:
    """The names of every family, in the order in which they are reported."""
    return torchvision_networks() | {"timm": _in_timm(TIMM), "hybrid": _in_timm(HYBRID)}


def torchvision_networks() -> dict[str, tuple[str, ...]]:
    """Those of torchvision, as `networks`."""
    models = torchvision.models
    modules = {"classification": models, "segmentation": models.segmentation, "video": models.video}
    return {family: tuple(list_models(module=module)) for family, module in modules.items()}


def _in_timm(names: Sequence[str]) -> tuple[str, ...]:
    """Those of the names that the installed timm has."""
    try:
        import timm
    except ImportError:
        return ()
    known = set(timm.list_models())
    return tuple(name for name in names if name in known)


def build(family: str, name: str) -> tuple[nn.Module, Tensor]:
    """A network in eval mode and one example for it, the same at every call."""
    torch.manual_seed(0)
    if family in ("timm", "hybrid"):
        import timm

        model: nn.Module = timm.create_model(name, pretrained=False)
        shape = _timm_shape(model, free=family == "timm")
    else:
        options: dict[str, Any] = {}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False  # a truncated normal from SciPy, a minute long
        if name.startswith("vit_"):
            options["image_size"] = SIZES.get(name, 64)
        if family == "segmentation":
            options["weights_backbone"] = None
        pixels = SIZES.get(name, 64)
        shape = (3, pixels, pixels)
        if name in VIDEO:
            frames, pixels = VIDEO[name]
            shape = (3, frames, pixels, pixels)
        model = torchvision.models.get_model(name, weights=None, **options)
    generator = torch.Generator().manual_seed(0)
    return randomise(model.eval()), torch.randn(1, *shape, generator=generator)


def _timm_shape(model: nn.Module, free: bool) -> tuple[int, ...]:
    """The size that it was made for; of convolutions only, no more than needed."""
    config = cast(Mapping[str, Any], model.default_cfg)
    channels, height, width = config["input_size"]
    if free and not config.get("fixed_input_size"):
        height, width = min(height, 224), min(width, 224)
    return channels, height, width


def randomise(model: nn.Module) -> nn.Module:
    """Distinct values wherever a fresh network has equal ones: of norms, biases, layer scales."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            if name.endswith("running_var"):
                tensor.copy_(values.abs() + 0.5)
            elif name.endswith("running_mean"):
                tensor.copy_(0.1 * values)
            elif tensor.dim() == 1:
                tensor.copy_((1 if "weight" in name else 0) + 0.2 * values)
            elif tensor.dim() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.copy_(values)
    return model
