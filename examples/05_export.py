# %% [markdown]
# # Export
#
# A slim network is an ordinary module, so what exports modules exports it: `torch.export` for
# PyTorch's own runtimes, ONNX for others. Both files are made here and run again.

# %%
import io
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import prune

OUT = Path(os.environ.get("EXAMPLE_OUT") or tempfile.mkdtemp())


class Net(nn.Module):
    """Images (N, 3, H, W) to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(F.relu(self.conv2(x)).mean((2, 3)))


torch.manual_seed(0)
x = torch.randn(3, 3, 16, 16)
result = prune(Net().eval(), x, prune_pct=50, name="exported_50")
saved = result.save(OUT, OUT)
model = result.model.eval()
with torch.no_grad():
    expected = model(x)

# %% [markdown]
# ## torch.export
#
# The batch size stays free. Nothing but torch reads the file, neither the generated class nor this
# project.

# %%
batch = torch.export.Dim("batch")
program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
torch.export.save(program, OUT / "exported_50.pt2")

again = torch.export.load(OUT / "exported_50.pt2").module()
error = float((again(x[:2]) - expected[:2]).abs().max().detach())
print(f"exported_50.pt2: differs by {error:.1e}")

# %% [markdown]
# ## ONNX
#
# This needs the packages of `pip install 'pruners[deploy]'`. `onnx_of` names operators after the
# layers; `check_onnx` compares what onnxruntime computes with torch, for one image and for several.
# (`python app.py export NAME --onnx` does it for a stored network.)

# %%
onnx_error = None
if find_spec("onnx") and find_spec("onnxruntime") and find_spec("onnxscript"):
    import onnxruntime

    from pruners.deploy.onnx_file import check_onnx, onnx_of

    content = onnx_of(model, (x,))
    check_onnx(content, model, (x,))
    (OUT / "exported_50.onnx").write_bytes(content)

    session = onnxruntime.InferenceSession(OUT / "exported_50.onnx")
    name = session.get_inputs()[0].name
    (logits,) = session.run(None, {name: x.numpy()})
    onnx_error = float((torch.from_numpy(logits) - expected).abs().max())
    print(f"exported_50.onnx: differs by {onnx_error:.1e}")

# %% [markdown]
# ## Weights alone
#
# The generated file and its `state_dict` are a format as well: the one to train on from.

# %%
content = io.BytesIO(saved.weights.read_bytes())
print(", ".join(torch.load(content, weights_only=True)))
