"""Plants a fault in a written artifact: one scale, multiplied. Layers are found by their weights, activations by their scale."""

import json
import struct

import numpy as np
import onnx
from coremltools.proto import Model_pb2
from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary
from onnx.numpy_helper import from_array, to_array

from edge_dp.bundle.manifest import MANIFEST, hash_tree, read_bundle
from edge_dp.converters.tflite_file import WEIGHTED, TFLiteFile
from edge_dp.converters.xnnpack_payload import XnnpackPayload
from edge_dp.runtime.engines.coreml import MODEL


def is_weight(found, weight):
    """Whether int8 weights made real are those of a layer, (out, in, height, width), within their rounding."""
    return found.shape == weight.shape and np.abs(found - weight).max() <= np.abs(weight).max() / 127


def rehash(bundle):
    """Let the manifest's checksums be those of the files as they are, as if they had been exported so."""
    data = json.loads((bundle.folder / MANIFEST).read_text())
    for artifact in data["artifacts"]:
        artifact["files"] = hash_tree(bundle.folder / artifact["path"], bundle.folder)
    (bundle.folder / MANIFEST).write_text(json.dumps(data))
    return read_bundle(bundle.folder)


def tflite_weight(path, weight, factor):
    """The scale of a convolution's weights, and of its bias, which the engine checks against it."""
    file = TFLiteFile(path)
    for operator in file.operators:
        if operator.name not in WEIGHTED:
            continue
        _, place, bias = WEIGHTED[operator.name]
        index = operator.inputs[place]
        scales, _ = file.quantisation(index)
        real = np.moveaxis(file.values(index) * scales.reshape(-1, 1, 1, 1), -1, 1)
        if is_weight(real, weight):
            file.set_quantisation(index, scales * factor)
            other = operator.inputs[bias]
            file.set_quantisation(other, file.quantisation(other)[0] * factor)
            return file.write(path)
    raise LookupError("no such layer")


def tflite_activation(path, entry, factor):
    file = TFLiteFile(path)
    found = [
        index
        for index in sorted(file.computed)
        if file.quantisation(index)[0].size and np.isclose(file.quantisation(index)[0][0], entry.scale, rtol=1e-6)
    ]
    for index in found:
        file.set_quantisation(index, file.quantisation(index)[0] * factor, entry.zero_point)
    assert found
    file.write(path)


def onnx_weight(path, weight, factor):
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        stored, scale = (to_array(constants[name]) for name in node.input[:2])
        real = stored * (scale.reshape(-1, *[1] * (stored.ndim - 1)) if scale.size > 1 else scale)
        if is_weight(real, weight):
            name = f"planted_{node.input[1]}"  # other layers may share the old one
            model.graph.initializer.append(from_array((scale * factor).astype(np.float32), name))
            node.input[1] = name
            onnx.save(model, path)
            return
    raise LookupError("no such layer")


def onnx_activation(path, entry, factor):
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        value = to_array(tensor)
        if value.dtype == np.float32 and value.ndim == 0 and np.isclose(value, entry.scale, rtol=1e-6):
            tensor.CopyFrom(from_array((value * factor).astype(np.float32), tensor.name))
            onnx.save(model, path)
            return
    raise LookupError("no such activation")


def onnx_reading(path, entry, factor):
    """The scale of the dequantise nodes alone: what is stored stays right, whoever reads it is wrong."""
    model = onnx.load(path)
    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            scale = constants[node.input[1]]
            if np.isclose(float(scale), entry.scale, rtol=1e-6):
                name = f"planted_{node.output[0]}"
                model.graph.initializer.append(from_array((scale * factor).astype(np.float32), name))
                node.input[1] = name
    onnx.save(model, path)


def executorch_weight(path, weight, factor):
    file = deserialize_pte_binary(path.read_bytes())
    for stored in file.program.backend_delegate_data:
        content = XnnpackPayload(bytes(stored.data)).content
        for node in content["xnodes"]:
            if "filter_id" not in node["xnode_union"]:
                continue
            union = content["xvalues"][node["xnode_union"]["filter_id"]]["xvalue_union"]
            if "quant_params" not in union:  # left in float
                continue
            tensor, parameters = union["tensor_value"], union["quant_params"]
            scales = _named(file, content, parameters["scale_buffer_idx"], np.float32)
            values = _named(file, content, tensor["constant_buffer_idx"], np.int8)[: np.prod(tensor["dims"])]
            scales = scales[: parameters["num_scales"]]
            real = np.moveaxis(values.reshape(tensor["dims"]) * scales.reshape(-1, 1, 1, 1), -1, 1)
            if is_weight(real, weight):
                place = _place(file, content, parameters["scale_buffer_idx"])
                file.named_data.buffers[place] = (scales * factor).astype(np.float32).tobytes()
                path.write_bytes(bytes(serialize_pte_binary(file)))
                return
    raise LookupError("no such layer")


def executorch_activation(path, entry, factor):
    file = deserialize_pte_binary(path.read_bytes())
    changed = 0
    for stored in file.program.backend_delegate_data:
        payload = XnnpackPayload(bytes(stored.data))
        for value in payload.content["xvalues"]:
            parameters = value["xvalue_union"].get("quant_params", {})
            if value["xvalue_union"].get("quant_params_type") != "PerTensorQuant":
                continue
            (scale,) = struct.unpack("<f", struct.pack("<I", parameters["scale"]))
            if np.isclose(scale, entry.scale, rtol=1e-6):
                (parameters["scale"],) = struct.unpack("<I", struct.pack("<f", scale * factor))
                changed += 1
        stored.data = payload.to_bytes()
    assert changed
    path.write_bytes(bytes(serialize_pte_binary(file)))


def _place(file, content, index):
    return file.named_data.pte_data[content["constant_data"][index]["named_key"]].buffer_index


def _named(file, content, index, dtype):
    data = file.named_data.buffers[_place(file, content, index)]
    return np.frombuffer(data[: len(data) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize], dtype)


def coreml_weight(path, weight, factor):
    _coreml(path, "constexpr_affine_dequantize", factor, weight=weight)


def coreml_activation(path, entry, factor):
    _coreml(path, "quantize", factor, entry=entry)
    _coreml(path, "dequantize", factor, entry=entry)


def _coreml(path, kind, factor, weight=None, entry=None):
    spec = Model_pb2.Model()
    spec.ParseFromString((path / MODEL).read_bytes())
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    blob = bytearray((path / MODEL).parent.joinpath("weights/weight.bin").read_bytes())
    named = {op.outputs[0].name: op for op in block.operations if op.type == "const"}
    changed = 0
    for op in block.operations:
        if op.type != kind:
            continue
        if weight is not None:
            scale, data = op.attributes["scale"], op.attributes["quantized_data"]
            scales, stored = _values(scale, blob, np.float16), _values(data, blob, np.int8)
            shape = [int(d.constant.size) for d in data.type.tensorType.dimensions]
            if int(np.prod(shape)) != weight.size:
                continue
            real = stored.reshape(shape) * np.float32(scales).reshape(-1, *[1] * (len(shape) - 1))
            if not is_weight(real, weight):
                continue
        else:
            scale = named[op.inputs["scale"].arguments[0].name].attributes["val"]
            if not np.isclose(_values(scale, blob, np.float16)[0], entry.scale, rtol=1e-3):
                continue
        _multiply(scale, blob, factor)
        changed += 1
    assert changed, "no such layer"
    (path / MODEL).write_bytes(spec.SerializeToString())
    (path / MODEL).parent.joinpath("weights/weight.bin").write_bytes(bytes(blob))


def _location(value, blob):
    """Where the data of a value lies in the weight file, and its size: its record's fields are magic, type, size, offset."""
    magic, _, size, offset = struct.unpack_from("<IIQQ", blob, value.blobFileValue.offset)
    assert magic == 0xDEADBEEF
    return offset, size


def _values(value, blob, dtype):
    if value.HasField("blobFileValue"):
        offset, size = _location(value, blob)
        return np.frombuffer(blob, dtype, size // np.dtype(dtype).itemsize, offset)
    tensor = value.immediateValue.tensor
    if tensor.HasField("bytes"):
        return np.frombuffer(tensor.bytes.values, dtype)
    return np.array(tensor.floats.values, np.float32)


def _multiply(value, blob, factor):
    if value.HasField("blobFileValue"):
        offset, size = _location(value, blob)
        new = (np.frombuffer(blob, np.float16, size // 2, offset) * np.float16(factor)).astype(np.float16)
        blob[offset : offset + size] = new.tobytes()
        return
    tensor = value.immediateValue.tensor
    if tensor.HasField("bytes"):
        tensor.bytes.values = (np.frombuffer(tensor.bytes.values, np.float16) * np.float16(factor)).tobytes()
    else:
        scaled = [float(x) * factor for x in tensor.floats.values]
        del tensor.floats.values[:]
        tensor.floats.values.extend(scaled)


WEIGHT = {
    "executorch-int8": executorch_weight,
    "tflite-int8": tflite_weight,
    "onnx-int8": onnx_weight,
    "coreml-w8a8": coreml_weight,
}
"""By artifact: multiplies the scale of the weights of one layer."""

ACTIVATION = {
    "executorch-int8": executorch_activation,
    "tflite-int8": tflite_activation,
    "onnx-int8": onnx_activation,
    "coreml-w8a8": coreml_activation,
}
"""By artifact: multiplies the scale of one activation, for whoever writes and reads it."""
