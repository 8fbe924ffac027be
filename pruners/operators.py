"""Which rule an operator has.

The table names operators without their overloads; in-place ones follow theirs (`rule_of`), and so
does whatever else PyTorch calls pointwise.
"""

from __future__ import annotations

from typing import Any

import torch

from pruners.calls import words
from pruners.notes import Rule
from pruners.rules import contraction, movement, pointwise, reduction


def _table(names: dict[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, operators in names.items() for name in words(operators)}


RULES: dict[str, Rule] = _table(
    {
        # movement
        movement.same: (
            "clone contiguous detach alias lift_fresh lift to _to_copy type_as view_as_real_copy"
            " positive resolve_conj resolve_neg requires_grad_ detach_ dropout feature_dropout"
            " alpha_dropout feature_alpha_dropout zeros_like ones_like full_like empty_like"
            " rand_like randn_like bernoulli _conj _neg_view data nan_to_num"
            " zero_ fill_ bernoulli_ normal_ uniform_ dropout_ feature_dropout_ exponential_"
        ),
        movement.movement: (
            "permute transpose t squeeze unsqueeze select narrow split_with_sizes unbind movedim"
            " moveaxis swapaxes swapdims diagonal unfold as_strided flip numpy_T transpose_ t_"
            " squeeze_ unsqueeze_ adjoint mT hsplit vsplit tensor_split unsafe_split_with_sizes"
        ),
        movement.expanded: "expand expand_as",
        movement.sliced: "slice",
        movement.reshape: (
            "view reshape _unsafe_view flatten unflatten _reshape_alias view_as ravel"
        ),
        movement.cat: "cat stack concat concatenate",
        movement.chunk: "chunk split unsafe_split unsafe_chunk",
        movement.pad: "pad constant_pad_nd",
        movement.repeat: "repeat",
        movement.roll: "roll",
        movement.indexed: "index _unsafe_index",
        movement.selected: "gather",
        movement.index_selected: "index_select",
        movement.embedding: "embedding",
        movement.pixel_shuffle: "pixel_shuffle",
        movement.pixel_unshuffle: "pixel_unshuffle",
        movement.channel_shuffle: "channel_shuffle native_channel_shuffle",
        movement.im2col: "im2col",
        movement.col2im: "col2im",
        movement.filled: (
            "zeros ones full empty new_zeros new_ones new_full new_empty empty_strided"
            " new_empty_strided"
        ),
        movement.constant: (
            "arange linspace logspace eye rand randn randint randperm scalar_tensor tril_indices"
            " triu_indices hann_window one_hot"
        ),
        # pointwise: and whatever else PyTorch tags so
        pointwise.pointwise: (
            "where masked_fill lerp addcmul addcdiv add sub mul div clamp tril triu relu relu6"
            " hardtanh hardswish hardsigmoid leaky_relu elu selu celu gelu silu mish softplus"
            " log_sigmoid_forward rrelu rrelu_with_noise softshrink hardshrink threshold sigmoid"
            " tanh fake_quantize_per_tensor_affine"
        ),
        pointwise.in_place: "copy_",
        pointwise.prelu: "prelu _prelu_kernel",
        pointwise.glu: "glu",
        # contraction
        contraction.convolution: (
            "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
            " _convolution"
        ),
        contraction.linear: "linear",
        contraction.matmul: "matmul mm bmm mv dot",
        contraction.addmm: "addmm baddbmm addmv",
        contraction.attention: (
            "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu"
        ),
        # reduction, pooling, normalisation
        reduction.total: "sum nansum linalg_vector_norm norm",
        reduction.statistic: (
            "mean amax amin aminmax var std var_mean std_mean prod logsumexp any all nanmean"
            " median max min"
        ),
        reduction.arg_statistic: "argmax argmin mode kthvalue",
        reduction.softmax: "softmax _softmax log_softmax _log_softmax",
        reduction.ordered: "cumsum cumprod sort topk argsort cummax cummin logcumsumexp",
        reduction.pool(1): (
            "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d"
            " upsample_linear1d _upsample_nearest_exact1d reflection_pad1d replication_pad1d"
            " max_pool1d_with_indices"
        ),
        reduction.pool(2): (
            "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d"
            " _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d"
            " upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa"
            " _upsample_bicubic2d_aa reflection_pad2d replication_pad2d grid_sampler"
            " grid_sampler_2d fractional_max_pool2d max_unpool2d"
        ),
        reduction.pool(3): (
            "max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d"
            " _adaptive_avg_pool3d adaptive_max_pool3d upsample_nearest3d upsample_trilinear3d"
            " _upsample_nearest_exact3d reflection_pad3d replication_pad3d"
        ),
        reduction.batch_norm: "batch_norm native_batch_norm _native_batch_norm_legit instance_norm",
        reduction.layer_norm: "layer_norm rms_norm",
        reduction.group_norm: "group_norm",
        reduction.local_response_norm: "local_response_norm",
        reduction.weight_norm: "_weight_norm _weight_norm_interface",
        contraction.recurrent: "lstm gru rnn_tanh rnn_relu",
        # known, and left alone
        movement.frozen: (
            "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell bilinear"
            " nonzero _unique2 index_put index_put_ scatter scatter_ scatter_add scatter_add_"
            " masked_select _local_scalar_dense item bincount multi_margin_loss"
        ),
    }
)
"""By the name of the operator."""

SIZE_FREE = frozenset(
    {
        *(movement.same, movement.cat, contraction.linear, contraction.recurrent),
        *(pointwise.pointwise, pointwise.in_place, pointwise.prelu),
        *(reduction.total, reduction.statistic, reduction.softmax, reduction.batch_norm),
        *(RULES[f"max_pool{spatial}d"] for spatial in (1, 2, 3)),
        reduction.local_response_norm,
    }
)
"""Rules of operators whose arguments say nothing about how many channels there are."""
SIZE_FREE_NAMES = frozenset(words("flatten permute transpose t unsqueeze movedim"))


def rule_of(func: Any) -> Rule | None:
    """The rule for an operator's overload; None where there is none."""
    name = func._schema.name.split("::")[1]
    found = RULES.get(name)
    if found is None and name.endswith("_") and not name.startswith("_"):
        base = RULES.get(name[:-1])
        tagged = torch.Tag.pointwise in func.tags
        if base in (movement.same, reduction.softmax) or (base is pointwise.prelu):
            return base
        if base is pointwise.pointwise or tagged:
            return pointwise.in_place
        return None
    if found is None and torch.Tag.pointwise in func.tags:
        return pointwise.in_place if func._schema.is_mutable else pointwise.pointwise
    if name in ("max", "min") and func._overloadname == "other":
        return pointwise.pointwise
    return found
