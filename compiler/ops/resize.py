"""Resize and Upsample: copies where each result is one element of the operand; else a depthwise convolution,
transposed where it makes an axis longer, or a matrix product per axis."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import numpy as np

from systolith.compiler.ops.affine import convolution
from systolith.compiler.ops.conv_transpose import transposed
from systolith.compiler.ops.interpolation import (
    Kernel,
    axis_matrix,
    chosen_indices,
    even_kernel,
    integers,
)
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.select import select
from systolith.compiler.ops.values import Builder, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear
from systolith.reference.matmul import MatMul
from systolith.reference.transpose import Transpose

__all__ = ["convert_resize"]

#: Taps of a depthwise kernel that are worth it against a product per axis.
_MOST_TAPS = 256


def extents_are_constant(node: NodeView) -> bool:
    """scales or sizes must be constant, and not empty."""
    return _stated(node) is not None


def aspect_ratio_is_free(node: NodeView) -> bool:
    """keep_aspect_ratio_policy must be stretch."""
    return node.attrs.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"


def zeros_stay_zero(node: NodeView) -> bool:
    """what lies outside of the operand must not be given by extrapolation_value."""
    return node.attrs.get("coordinate_transformation_mode") != b"tf_crop_and_resize" or all(
        matrix is not None for matrix in _matrices(node)
    )


def _stated(node: NodeView) -> tuple[np.ndarray, bool] | None:
    """(numbers per axis, whether they are sizes), all axes."""
    rank = len(node.values[0].shape)
    if "scales" in node.attrs:
        return np.array(node.attrs["scales"]), False
    old = node.op_type == "Upsample" or node.opset < 11
    axes = [axis % rank for axis in node.attrs.get("axes", range(rank))]
    for index, sizes in ((1, False),) if old else ((2, False), (3, True)):
        value = node.value(index)
        if value is None:
            continue
        array = getattr(value, "array", None)
        if array is None:
            return None
        if array.size:
            full = np.array(node.values[0].shape, np.int64) if sizes else np.ones(rank)
            full = full.astype(np.int64 if sizes else np.float64)
            full[axes] = array.reshape(-1)
            return full, sizes
    return None


def _matrices(node: NodeView) -> list[np.ndarray | None]:
    """One matrix per axis."""
    numbers, sizes = _stated(node)
    shape, rank = node.values[0].shape, len(node.values[0].shape)
    axes = [axis % rank for axis in node.attrs.get("axes", range(rank))]
    bounds = [(0.0, 1.0)] * rank
    roi = constant(node, 1) if node.op_type == "Resize" and node.opset >= 11 else None
    if roi is not None and roi.size == 2 * len(axes):
        for at, axis in enumerate(axes):
            bounds[axis] = float(roi[at]), float(roi[at + len(axes)])
    found: list[np.ndarray | None] = []
    for extent, number, bound in zip(shape, numbers.tolist(), bounds, strict=True):
        if number == (extent if sizes else 1.0) and bound == (0.0, 1.0):
            found.append(np.eye(extent))
        else:
            found.append(
                axis_matrix(
                    node.proto,
                    node.opset,
                    extent,
                    1.0 if sizes else number,
                    int(number) if sizes else None,
                    bound,
                )
            )
    return found


@register(
    "Resize",
    "Upsample",
    attributes=(
        "antialias",
        "axes",
        "coordinate_transformation_mode",
        "cubic_coeff_a",
        "exclude_outside",
        "extrapolation_value",
        "keep_aspect_ratio_policy",
        "mode",
        "nearest_mode",
        "scales",
    ),
    constraints=(extents_are_constant, aspect_ratio_is_free, zeros_stay_zero),
)
def convert_resize(builder: Builder, node: NodeView) -> Value:
    """nearest, linear and cubic, in every coordinate_transformation_mode."""
    matrices = [matrix for matrix in _matrices(node) if matrix is not None]
    chosen = [chosen_indices(matrix) for matrix in matrices]
    value = node.values[0]
    waiting = [axis for axis, index in enumerate(chosen) if index is None]
    if not waiting:
        return select(builder, node, value, chosen, node.outputs[0])
    # Axes that are copied come first where they get shorter, so that less is computed.
    value = operand(node, 0)
    if any(index is not None for index in chosen):
        value = select(builder, node, value, chosen, f"{node.outputs[0]}_chosen")
    rank = len(value.shape)
    if rank in (3, 4) and min(waiting) >= 2:
        kernels = [even_kernel(matrices[axis]) if axis in waiting else None for axis in range(2, rank)]
        if all(kernel is not None or axis + 2 not in waiting for axis, kernel in enumerate(kernels)):
            whole = [kernel or Kernel(np.ones((1, 1)), 1, 1, 0) for kernel in kernels]
            out = [matrix.shape[1] for matrix in matrices[2:]]
            moved = _moved(builder, node, value, whole, out)
            if moved is not None:
                return moved
    return _products(builder, node, value, {axis: matrices[axis] for axis in waiting})


def _moved(builder: Builder, node: NodeView, x: Func, kernels: list[Kernel], out: list[int]) -> Value | None:
    """As a depthwise convolution over the operand with its ends repeated; None where the kernels do not agree
    or are too large."""
    up = all(kernel.down == 1 for kernel in kernels)
    if not up and not all(kernel.up == 1 for kernel in kernels):
        return None
    channels = x.shape[1]
    chosen: list[np.ndarray | None] = [None, None]
    for kernel, extent, size in zip(kernels, x.shape[2:], out, strict=True):
        last = (size - 1) // kernel.up * kernel.down + kernel.first + kernel.weights.shape[1] - 1
        chosen.append(np.clip(np.arange(kernel.first, last + 1), 0, extent - 1))
    # In what is left, the first tap of the first result meets the first element.
    lines = []
    for kernel in kernels:
        taps = kernel.weights.shape[1]
        if up:
            # Tap t of phase r meets output position r from input t: k = r + pad - t * up.
            line = np.zeros(taps * kernel.up)
            for phase in range(kernel.up):
                for tap in range(taps):
                    line[phase + (taps - 1 - tap) * kernel.up] = kernel.weights[phase, tap]
        else:
            line = kernel.weights[0]
        lines.append(line)
    whole = lines[0] if len(lines) == 1 else np.multiply.outer(*lines)
    if whole.size > _MOST_TAPS:
        return None
    indices = np.indices(whole.shape)
    steps = [kernel.up for kernel in kernels]
    phases = np.ravel_multi_index(tuple(at % n for at, n in zip(indices, steps, strict=True)), tuple(steps))
    weights, scale = integers(whole, phases)
    weights = weights if weights.ndim == 2 else weights[None]
    weights = np.broadcast_to(weights, (channels, 1, *weights.shape))
    padded = select(builder, node, x, chosen, f"{node.outputs[0]}_padded")
    w_scale, bias = np.full(channels, scale), np.zeros(channels)
    if up:
        return transposed(
            builder,
            node,
            padded.tensor,
            weights,
            w_scale,
            bias,
            before=[(kernel.weights.shape[1] - 1) * kernel.up for kernel in kernels],
            extents=out,
            strides=tuple(kernel.up for kernel in kernels),
            dilations=(1,) * len(kernels),
            group=channels,
        )
    strides = tuple(kernel.down for kernel in kernels)
    return convolution(
        builder,
        node,
        padded,
        weights,
        w_scale,
        bias,
        (*x.shape[:2], *out),
        strides=strides if len(strides) == 2 else (1, *strides),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        group=channels,
    )


def _products(builder: Builder, node: NodeView, x: Func, matrices: dict[int, np.ndarray]) -> Value:
    """One axis after the other, each as the last one; between two of them in the operand's format, as much
    wider as the weights can make the values."""
    value: Value = x
    axes = list(matrices)
    for at, axis in enumerate(axes):
        tensor = builder.tensors[value.tensor]
        shape = tensor.shape
        perm = (*(other for other in range(len(shape)) if other != axis), axis)
        name = f"{node.outputs[0]}_axis{axis}"
        swapped = value
        if axis != len(shape) - 1:
            turned = tuple(shape[other] for other in perm)
            swapped = builder.move(
                value, node.name, "Transpose", Transpose(perm=perm), turned, f"{name}_last"
            )
        pending = _product(builder, node, swapped, matrices[axis])
        if axis != len(shape) - 1:
            back = tuple(perm.index(other) for other in range(len(shape)))
            new = tuple(pending.shape[other] for other in back)
            pending = replace(
                pending,
                made=pending.shape,
                shape=new,
                then=((Transpose(perm=back), new, "Transpose"),),
                linear=None,
            )
        if at == len(axes) - 1:
            return pending
        wider = max(1.0, float(np.abs(matrices[axis]).sum(axis=0).max()))
        scale = tensor.scale * (1.0 if wider < 1.0 + 1e-4 else ceil(wider * 256) / 256)
        made = builder.quantise(pending, node.name, name, scale, tensor.zero_point)
        value = replace(x, tensor=made, shape=builder.tensors[made].shape)
    return value


def _product(builder: Builder, node: NodeView, x: Func, matrix: np.ndarray) -> Pending:
    tensor = builder.tensors[x.tensor]
    columns = [integers(column) for column in matrix.T]

    def make(weights: np.ndarray, bias: np.ndarray, requant: object) -> MatMul:
        return MatMul(weights=weights, bias=bias, x_zero=tensor.zero_point, requant=requant)

    linear = Linear(
        node=node,
        make=make,
        weights=np.stack([ints for ints, _ in columns], axis=1),
        axis=1,
        x_scale=tensor.scale,
        x_zero=tensor.zero_point,
        w_scale=np.array([scale for _, scale in columns]),
        bias=np.zeros(len(columns)),
        out_axis=-1,
    )
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=(*tensor.shape[:-1], len(columns)),
        build=linear.build,
        inputs=(x.tensor,),
        sources=(node.name,),
        linear=linear,
    )
