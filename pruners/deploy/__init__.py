"""What goes to a device: int8, ONNX, torch.export, and the figures of what that needs.

model_file    the generated file, its weights, and whether the two belong together
folding       batch norms computed into the layers before them, under the same keys
weight_int8   a state_dict with int8 weights, which the generated file loads
exporting     the network as a torch.export graph with a free batch size, and as `.pt2`
onnx_file     the network as ONNX, checked and compared
torch_script  the network as TorchScript
calibration   the inputs that int8 is calibrated with
onnx_int8     int8 as ONNX: quantize and dequantize operators around float ones
torch_int8    the same as a torch.export graph
quantizing    all int8 forms of a network, and what they get right
runtime       files that are called as networks are
unpruned      the network before all pruning, as the manifest tells
finalizing    folded, exported, and held against the network as it was
needs         size, memory, work and latency, beside the unpruned network
failures      which layer and operator a tool could not take
extra         what has to be installed

All take a network in memory and return bytes; the commands put them into the model store.
"""
