"""Ways of writing networks: configurations, inheritance, own convolutions, outputs in dicts."""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, List, Tuple, Union
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

cfgs: Dict[str, List[Union[str, int]]] = {"A": [16, "M", 32, 32, "M"]}


class VGGish(nn.Module):
    def __init__(self, cfg="A", num_classes=10, batch_norm=True, init_weights=True):
        super(VGGish, self).__init__()
        layers: List[nn.Module] = []
        c = 3
        for v in cfgs[cfg]:
            if v == "M":
                layers += [nn.MaxPool2d(kernel_size=2, stride=2)]
            else:
                conv = nn.Conv2d(c, v, kernel_size=3, padding=1)
                layers += (
                    [conv, nn.BatchNorm2d(v), nn.ReLU(inplace=True)]
                    if batch_norm
                    else [conv, nn.ReLU(inplace=True)]
                )
                c = v
        self.features = nn.Sequential(*layers)
        with torch.no_grad():
            n = self.features(torch.zeros(1, 3, 16, 16)).view(1, -1).shape[1]
        self.classifier = nn.Sequential(
            nn.Linear(n, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, num_classes)
        )
        for i in range(2):
            setattr(self, f"aux{i}", nn.Conv2d(c, 4, 1))
        self.add_module("extra", nn.Conv2d(c, c, 1))
        if init_weights:
            self._init()

    def _init(self):
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                if m.bias is not None:
                    nn.init.constant_(m.bias, 0)

    def forward(self, x):
        x = self.features(x)
        x = self.extra(x)
        a = sum(getattr(self, f"aux{i}")(x).mean() for i in range(2))
        x = torch.flatten(x, 1)
        return self.classifier(x) + a


class WSConv2d(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        m = w.mean(dim=(1, 2, 3), keepdim=True)
        w = w - m
        std = w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-5
        return F.conv2d(
            x,
            w / std.expand_as(w),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


class Conv2dSame(nn.Conv2d):
    def forward(self, x):
        ih, iw = x.size()[-2:]
        kh, kw = self.weight.size()[-2:]
        sh, sw = self.stride
        ph = max((math.ceil(ih / sh) - 1) * sh + (kh - 1) * self.dilation[0] + 1 - ih, 0)
        pw = max((math.ceil(iw / sw) - 1) * sw + (kw - 1) * self.dilation[1] + 1 - iw, 0)
        if ph > 0 or pw > 0:
            x = F.pad(x, [pw // 2, pw - pw // 2, ph // 2, ph - ph // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class SwishFn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, i):
        ctx.save_for_backward(i)
        return i * torch.sigmoid(i)

    @staticmethod
    def backward(ctx, g):
        (i,) = ctx.saved_tensors
        s = torch.sigmoid(i)
        return g * (s * (1 + i * (1 - s)))


class MemSwish(nn.Module):
    def forward(self, x):
        return SwishFn.apply(x)


class WS(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = Conv2dSame(3, 16, 3, stride=2, bias=False)
        self.act = MemSwish()
        self.c2 = WSConv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(F.relu(self.c2(self.act(self.c1(x)))).mean((2, 3)))


class Mode(Enum):
    AVG = "avg"
    MAX = "max"


@dataclass
class Config:
    dims: Tuple[int, ...] = (16, 32)
    depths: List[int] = field(default_factory=lambda: [1, 2])
    mode: Mode = Mode.AVG
    drop_path: float = 0.1


class DropPath(nn.Module):
    def __init__(self, p: float = 0.0):
        super().__init__()
        self.p = p

    def forward(self, x):
        if self.p == 0.0 or not self.training:
            return x
        keep = 1 - self.p
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class Block(nn.Module):
    def __init__(self, dim, drop_path):
        super().__init__()
        self.dw = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pw1 = nn.Linear(dim, 4 * dim)
        self.pw2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(1e-2 * torch.ones((dim)), requires_grad=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x):
        r = x
        x = self.dw(x).permute(0, 2, 3, 1)
        x = self.pw2(F.gelu(self.pw1(self.norm(x))))
        if self.gamma is not None:
            x = self.gamma * x
        return r + self.drop_path(x.permute(0, 3, 1, 2))


class Configured(nn.Module):
    def __init__(self, cfg: Config = Config()):
        super().__init__()
        self.cfg = cfg
        self.down = nn.ModuleList()
        c = 3
        rates = [r.item() for r in torch.linspace(0, cfg.drop_path, sum(cfg.depths))]
        k = 0
        self.stages = nn.ModuleDict()
        for i, (d, n) in enumerate(zip(cfg.dims, cfg.depths)):
            self.down.append(nn.Conv2d(c, d, 2, 2))
            self.stages[f"stage{i}"] = nn.Sequential(*[Block(d, rates[k + j]) for j in range(n)])
            c = d
            k += n
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in cfg.dims])
        self.shift = nn.ParameterDict({"a": nn.Parameter(torch.zeros(1))})
        self.head = nn.Linear(c, 7)

    def forward(self, x):
        for (name, s), d, k in zip(self.stages.items(), self.down, self.scales):
            x = s(d(x)) * k
        x = x.mean((-2, -1)) if self.cfg.mode is Mode.AVG else x.amax((-2, -1))
        return self.head(x) + self.shift["a"]


class BaseNet(nn.Module):
    expansion: int = 2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.width = kwargs.pop("width", 16)
        self.extra_opts = kwargs
        self.stem = nn.Sequential(
            OrderedDict(
                [
                    ("conv", nn.Conv2d(3, self.width, 3, padding=1)),
                    ("bn", nn.BatchNorm2d(self.width)),
                    ("act", nn.ELU()),
                ]
            )
        )

    @property
    def out_width(self) -> int:
        return self.width * self.expansion

    def features(self, x):
        raise NotImplementedError

    def forward(self, x):
        f, aux = self.features(x)
        if self.training and aux is not None:
            return self.head(f), self.aux_head(aux)
        return self.head(f)


class Derived(BaseNet):
    expansion = 3

    def __init__(self, num_classes: int = 6, use_aux: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.body = nn.Conv2d(self.width, self.out_width, 3, 2, 1)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(self.out_width, num_classes)
        )
        self.aux_head = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.width, num_classes))
            if use_aux
            else None
        )

    def features(self, x):
        s = self.stem(x)
        return F.selu(self.body(s)), s if self.aux_head is not None else None


class Scale(nn.Module):
    def __init__(self, v=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(v, dtype=torch.float))

    def forward(self, x):
        return x * self.scale


class FCOS(nn.Module):
    def __init__(self, nc=3):
        super().__init__()
        self.c3 = nn.Conv2d(3, 16, 3, 2, 1)
        self.c4 = nn.Conv2d(16, 32, 3, 2, 1)
        self.c5 = nn.Conv2d(32, 48, 3, 2, 1)
        self.lat = nn.ModuleList([nn.Conv2d(c, 24, 1) for c in (16, 32, 48)])
        self.outc = nn.ModuleList([nn.Conv2d(24, 24, 3, padding=1) for _ in range(3)])
        tower = []
        for _ in range(2):
            tower += [nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.GroupNorm(6, 24), nn.ReLU()]
        self.tower = nn.Sequential(*tower)
        self.cls = nn.Conv2d(24, nc, 3, padding=1)
        self.reg = nn.Conv2d(24, 4, 3, padding=1)
        self.ctr = nn.Conv2d(24, 1, 3, padding=1)
        self.scales = nn.ModuleList([Scale(1.0) for _ in range(3)])
        self.register_buffer("strides", torch.tensor([2.0, 4.0, 8.0]), persistent=False)
        nn.init.constant_(self.cls.bias, -math.log((1 - 0.01) / 0.01))

    def forward(self, x) -> Dict[str, List[Tensor]]:
        feats = []
        for i in (3, 4, 5):
            x = F.relu(getattr(self, f"c{i}")(x))
            feats.append(x)
        lats = [l(f) for l, f in zip(self.lat, feats)]
        for i in range(len(lats) - 1, 0, -1):
            lats[i - 1] = lats[i - 1] + F.interpolate(lats[i], scale_factor=2.0, mode="nearest")
        out = {"cls": [], "reg": [], "ctr": []}
        for i, (o, l) in enumerate(zip(self.outc, lats)):
            t = self.tower(o(l))
            out["cls"].append(self.cls(t))
            out["ctr"].append(self.ctr(t))
            out["reg"].append(torch.exp(self.scales[i](self.reg(t))) * self.strides[i])
        return out


@torch.jit.script
def mish(x):
    return x * torch.tanh(F.softplus(x))


class AutoEnc(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Conv2d(1, 16, 3, padding=1)
        self.mid = nn.Conv2d(16, 24, 3, padding=1)
        self.mid2 = nn.Conv2d(24, 16, 3, padding=1)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        h = mish(self.w(x))
        h = self.mid2(mish(self.mid(h)))
        return F.conv_transpose2d(h, self.w.weight, self.bias, padding=1)


class Skips(nn.Module):
    def __init__(self, widths=(8, 16, 32)):
        super().__init__()
        self.widths = widths
        ins = (3, *widths[:-1])
        self.enc = nn.ModuleList(
            nn.Conv2d(i, o, 3, stride=1 if k == 0 else 2, padding=1)
            for k, (i, o) in enumerate(zip(ins, widths))
        )
        self.dec = nn.ModuleList(
            nn.ConvTranspose2d(o, i, 2, 2) for i, o in zip(widths[-2::-1], widths[:0:-1])
        )
        self.merge = nn.ModuleList(nn.Conv2d(2 * w, w, 3, padding=1) for w in widths[-2::-1])
        self.out = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x):
        assert x.dim() == 4, "images"
        skips: dict = {}
        for i, conv in enumerate(self.enc):
            x = conv(x).relu_()
            skips[i] = x
        for j, (up, merge) in enumerate(zip(self.dec, self.merge)):
            if (y := up(x)).shape[-1] != (s := skips[len(self.enc) - 2 - j]).shape[-1]:
                y = F.interpolate(y, s.shape[-2:])
            x = merge(torch.cat([y, s], dim=1)).clamp(min=0)
        return self.out(x).squeeze(1)


class Misc(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 32, 3, padding=1)
        self.b = nn.Conv2d(32, 32, 1)
        self.fc1 = nn.Linear(32, 8)
        self.fc2 = nn.Linear(8, 32)
        self.o = nn.Linear(64, 5)
        self.register_buffer("mean", torch.tensor([0.5, 0.4, 0.3]))
        self.register_buffer("std", torch.tensor([0.2, 0.2, 0.3]))

    def forward(self, x):
        x = (x - self.mean[None, :, None, None]) / self.std.view(1, 3, 1, 1)
        x = F.leaky_relu(self.a(x), 0.1)
        b, c, *_ = x.shape
        y = self.fc2(F.relu(self.fc1(x.view(b, c, -1).mean(dim=2)))).sigmoid()
        x = x * y.view(b, c, 1, 1)
        x = F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)
        x = self.b(x)
        top = x.flatten(2).topk(3, dim=2).values.mean(2)
        std = x.flatten(2).std(dim=2)
        return self.o(torch.hstack([top, std]))


class ConvBNReLU(nn.Sequential):
    def __init__(self, i, o, k=3, s=1, groups=1):
        super().__init__(
            nn.Conv2d(i, o, k, s, (k - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU6(inplace=True),
        )


class Concat(nn.Sequential):
    def forward(self, *xs):
        return super().forward(torch.cat(xs, 1))


class DenseSeq(nn.Sequential):
    def forward(self, x):
        for m in self:
            x = torch.cat([x, m(x)], 1)
        return x


class Seqs(nn.Module):
    def __init__(self, *, growth: int = 8):
        super().__init__()

        def block(i, o, **kw):
            return ConvBNReLU(i, o, **kw)

        self.s = block(3, 16)
        self.d = DenseSeq(block(16, growth), block(16 + growth, growth))
        self.m = Concat(nn.Conv2d(32 + 16, 24, 1), nn.ReLU())
        self.h = nn.Linear(24, 4)

    def forward(self, x):
        s = self.s(x)
        x = self.m(self.d(s), s)
        if x.numel() == 0:
            return x
        return self.h(x.mean(dim=[-1, -2]))
