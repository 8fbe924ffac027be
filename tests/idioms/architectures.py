"""Networks in the idioms of well-known architectures, as their users write them: what is to be pruned."""

import math
import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, g=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = (
            nn.SiLU() if act is True else (act if isinstance(act, nn.Module) else nn.Identity())
        )

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True, e=0.5):
        super().__init__()
        c_ = int(c2 * e)
        self.cv1 = Conv(c1, c_, 1)
        self.cv2 = Conv(c_, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=False, e=0.5):
        super().__init__()
        self.c = int(c2 * e)
        self.cv1 = Conv(c1, 2 * self.c, 1, 1)
        self.cv2 = Conv((2 + n) * self.c, c2, 1)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut, e=1.0) for _ in range(n))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        c_ = c1 // 2
        self.cv1 = Conv(c1, c_, 1)
        self.cv2 = Conv(c_ * 4, c2, 1)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class DFL(nn.Module):
    def __init__(self, c1=16):
        super().__init__()
        self.conv = nn.Conv2d(c1, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(c1, dtype=torch.float).view(1, c1, 1, 1)
        self.c1 = c1

    def forward(self, x):
        b, c, a = x.shape
        return self.conv(x.view(b, 4, self.c1, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class Detect(nn.Module):
    def __init__(self, nc=5, ch=()):
        super().__init__()
        self.nc = nc
        self.reg_max = 4
        self.no = nc + self.reg_max * 4
        c2, c3 = max(16, ch[0] // 4), max(ch[0], nc)
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(x, c2, 3), Conv(c2, c2, 3), nn.Conv2d(c2, 4 * self.reg_max, 1))
            for x in ch
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(Conv(x, c3, 3), Conv(c3, c3, 3), nn.Conv2d(c3, self.nc, 1)) for x in ch
        )
        self.dfl = DFL(self.reg_max)

    def forward(self, x):
        shape = x[0].shape
        for i in range(len(x)):
            x[i] = torch.cat((self.cv2[i](x[i]), self.cv3[i](x[i])), 1)
        if self.training:
            return x
        x_cat = torch.cat([xi.view(shape[0], self.no, -1) for xi in x], 2)
        box, cls = x_cat.split((self.reg_max * 4, self.nc), 1)
        return torch.cat((self.dfl(box), cls.sigmoid()), 1)


class YOLO(nn.Module):
    def __init__(self):
        super().__init__()
        self.b0 = Conv(3, 16, 3, 2)
        self.b1 = Conv(16, 32, 3, 2)
        self.b2 = C2f(32, 32, 1, True)
        self.b3 = Conv(32, 64, 3, 2)
        self.b4 = C2f(64, 64, 2, True)
        self.b5 = SPPF(64, 64)
        self.up = nn.Upsample(None, 2, "nearest")
        self.n1 = C2f(96, 32, 1)
        self.d1 = Conv(32, 32, 3, 2)
        self.n2 = C2f(96, 64, 1)
        self.detect = Detect(5, (32, 64))

    def forward(self, x):
        p2 = self.b2(self.b1(self.b0(x)))
        p3 = self.b5(self.b4(self.b3(p2)))
        n1 = self.n1(torch.cat([self.up(p3), p2], 1))
        n2 = self.n2(torch.cat([self.d1(n1), p3], 1))
        return self.detect([n1, n2])


class BiFPN(nn.Module):
    def __init__(self, c=32):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.w2 = nn.Parameter(torch.ones(3))
        self.eps = 1e-4
        self.dw = nn.Sequential(
            nn.Conv2d(c, c, 3, 1, 1, groups=c, bias=False),
            nn.Conv2d(c, c, 1),
            nn.BatchNorm2d(c),
            nn.SiLU(),
        )
        self.dw2 = nn.Sequential(
            nn.Conv2d(c, c, 3, 1, 1, groups=c, bias=False),
            nn.Conv2d(c, c, 1),
            nn.BatchNorm2d(c),
            nn.SiLU(),
        )

    def forward(self, p3, p4):
        w = F.relu(self.w)
        w = w / (w.sum() + self.eps)
        t = self.dw(w[0] * p3 + w[1] * F.interpolate(p4, size=p3.shape[-2:], mode="nearest"))
        v = F.relu(self.w2)
        v = v / (v.sum(0) + self.eps)
        o = self.dw2(v[0] * p4 + v[1] * F.max_pool2d(t, 2) + v[2] * p4)
        return t, o


class EffDet(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 24, 3, 2, 1)
        self.s2 = nn.Conv2d(24, 48, 3, 2, 1)
        self.l3 = nn.Conv2d(24, 32, 1)
        self.l4 = nn.Conv2d(48, 32, 1)
        self.fpn = nn.ModuleList([BiFPN(), BiFPN()])
        self.head = nn.Conv2d(32, 9, 3, padding=1)

    def forward(self, x):
        a = F.silu(self.s(x))
        b = F.silu(self.s2(a))
        p3, p4 = self.l3(a), self.l4(b)
        for f in self.fpn:
            p3, p4 = f(p3, p4)
        return [
            self.head(p).permute(0, 2, 3, 1).contiguous().view(p.shape[0], -1, 3) for p in (p3, p4)
        ]


class CBAM(nn.Module):
    def __init__(self, c, r=4):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(c, c // r), nn.ReLU(), nn.Linear(c // r, c)
        )
        self.sp = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        a = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(a).unsqueeze(2).unsqueeze(3).expand_as(x)
        s = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.sp(s))


class CoordAtt(nn.Module):
    def __init__(self, inp, oup, reduction=8):
        super().__init__()
        self.pool_h = nn.AdaptiveAvgPool2d((None, 1))
        self.pool_w = nn.AdaptiveAvgPool2d((1, None))
        mip = max(8, inp // reduction)
        self.conv1 = nn.Conv2d(inp, mip, 1)
        self.bn1 = nn.BatchNorm2d(mip)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(mip, oup, 1)
        self.conv_w = nn.Conv2d(mip, oup, 1)

    def forward(self, x):
        n, c, h, w = x.size()
        x_h = self.pool_h(x)
        x_w = self.pool_w(x).permute(0, 1, 3, 2)
        y = self.act(self.bn1(self.conv1(torch.cat([x_h, x_w], dim=2))))
        x_h, x_w = torch.split(y, [h, w], dim=2)
        return x * self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid() * self.conv_h(x_h).sigmoid()


class ECA(nn.Module):
    def __init__(self, k=3):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x):
        y = (
            self.conv(F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(-1, -2))
            .transpose(-1, -2)
            .unsqueeze(-1)
        )
        return x * torch.sigmoid(y).expand_as(x)


class Att(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 32, 3, padding=1)
        self.cbam = CBAM(32)
        self.c2 = nn.Conv2d(32, 32, 3, padding=1)
        self.coord = CoordAtt(32, 32)
        self.c3 = nn.Conv2d(32, 32, 3, padding=1)
        self.eca = ECA()
        self.c4 = nn.Conv2d(32, 48, 3, 2)
        self.fc = nn.Linear(48, 10)

    def forward(self, x):
        x = self.cbam(F.relu(self.c1(x)))
        x = self.coord(F.relu(self.c2(x)))
        x = self.eca(F.relu(self.c3(x)))
        return self.fc(F.relu(self.c4(x)).mean([2, 3]))


class SplAt(nn.Module):
    def __init__(self, c=16, radix=2, groups=1, reduction=4):
        super().__init__()
        inter = max(c * radix // reduction, 8)
        self.radix, self.card, self.channels = radix, groups, c
        self.conv = nn.Conv2d(c, c * radix, 3, padding=1, groups=groups * radix, bias=False)
        self.bn0 = nn.BatchNorm2d(c * radix)
        self.fc1 = nn.Conv2d(c, inter, 1, groups=groups)
        self.bn1 = nn.BatchNorm2d(inter)
        self.fc2 = nn.Conv2d(inter, c * radix, 1, groups=groups)

    def forward(self, x):
        x = F.relu(self.bn0(self.conv(x)))
        batch, rchannel = x.shape[:2]
        splited = torch.split(x, rchannel // self.radix, dim=1)
        gap = F.adaptive_avg_pool2d(sum(splited), 1)
        atten = self.fc2(F.relu(self.bn1(self.fc1(gap))))
        atten = F.softmax(atten.view(batch, self.radix, self.channels), dim=1).reshape(
            batch, -1, 1, 1
        )
        attens = torch.split(atten, rchannel // self.radix, dim=1)
        return sum([att * split for (att, split) in zip(attens, splited)]).contiguous()


class ResNeSt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.a = nn.Conv2d(32, 16, 1)
        self.s = SplAt()
        self.b = nn.Conv2d(16, 32, 1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(self.s(F.relu(self.a(x)))))
        return self.fc(x.flatten(2).mean(-1))


class RepVGGBlock(nn.Module):
    def __init__(self, i, o, s=1):
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(i) if o == i and s == 1 else None
        self.rbr_dense = nn.Sequential()
        self.rbr_dense.add_module("conv", nn.Conv2d(i, o, 3, s, 1, bias=False))
        self.rbr_dense.add_module("bn", nn.BatchNorm2d(o))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        id_out = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.relu(self.rbr_dense(x) + self.rbr_1x1(x) + id_out)


class RepVGG(nn.Module):
    def __init__(self):
        super().__init__()
        self.in_planes = 24
        self.stage0 = RepVGGBlock(3, 24, 2)
        self.stage1 = self._make(32, 2, 2)
        self.stage2 = self._make(48, 3, 2)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(48, 10)

    def _make(self, planes, n, stride):
        blocks = []
        for s in [stride] + [1] * (n - 1):
            blocks.append(RepVGGBlock(self.in_planes, planes, s))
            self.in_planes = planes
        return nn.ModuleList(blocks)

    def forward(self, x):
        out = self.stage0(x)
        for stage in (self.stage1, self.stage2):
            for block in stage:
                out = block(out)
        return self.linear(self.gap(out).view(out.size(0), -1))


class GlobLN(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, c, 1))
        self.b = nn.Parameter(torch.zeros(1, c, 1))

    def forward(self, x):
        m = x.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        v = ((x - m) ** 2).mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        return self.g * (x - m) / torch.pow(v + 1e-8, 0.5) + self.b


class TB(nn.Module):
    def __init__(self, b, h, d):
        super().__init__()
        self.c1 = nn.Conv1d(b, h, 1)
        self.p1 = nn.PReLU()
        self.n = nn.BatchNorm1d(h)
        self.dw = nn.Conv1d(h, h, 3, padding=d, dilation=d, groups=h)
        self.res = nn.Conv1d(h, b, 1)
        self.skip = nn.Conv1d(h, b, 1)

    def forward(self, x):
        y = self.dw(self.n(self.p1(self.c1(x))))
        return x + self.res(y), self.skip(y)


class TasNet(nn.Module):
    def __init__(self, n=32, b=16, h=24, spk=2):
        super().__init__()
        self.enc = nn.Conv1d(1, n, 16, stride=8, bias=False)
        self.ln = GlobLN(n)
        self.bott = nn.Conv1d(n, b, 1)
        self.tb = nn.ModuleList([TB(b, h, 2**i) for i in range(3)])
        self.mask = nn.Conv1d(b, spk * n, 1)
        self.dec = nn.ConvTranspose1d(n, 1, 16, stride=8, bias=False)
        self.spk, self.nf = spk, n

    def forward(self, x):
        w = F.relu(self.enc(x))
        y = self.bott(self.ln(w))
        total = 0.0
        for t in self.tb:
            y, s = t(y)
            total = total + s
        m = torch.sigmoid(self.mask(total)).view(x.shape[0], self.spk, self.nf, -1)
        est = w.unsqueeze(1) * m
        return torch.stack([self.dec(est[:, i]) for i in range(self.spk)], 1)


class RCAB(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1), nn.ReLU(True), nn.Conv2d(c, c, 3, padding=1)
        )
        self.ca = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(c, c // 4, 1),
            nn.ReLU(True),
            nn.Conv2d(c // 4, c, 1),
            nn.Sigmoid(),
        )
        self.scale = 0.1

    def forward(self, x):
        r = self.body(x)
        return x + (r * self.ca(r)).mul(self.scale)


class RCAN(nn.Module):
    def __init__(self, c=32, s=2):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, c, 3, padding=1)
        self.body = nn.Sequential(*[RCAB(c) for _ in range(2)], nn.Conv2d(c, c, 3, padding=1))
        self.tail = nn.Sequential(
            nn.Conv2d(c, c * s * s, 3, padding=1), nn.PixelShuffle(s), nn.Conv2d(c, 3, 3, padding=1)
        )

    def forward(self, x):
        x = self.head(x - self.mean)
        x = x + self.body(x)
        return self.tail(x) + self.mean


class Fuse(nn.Module):
    def __init__(self, cs=(16, 32)):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()
                )
                for c in cs
            ]
        )
        self.up = nn.Sequential(nn.Conv2d(cs[1], cs[0], 1, bias=False), nn.BatchNorm2d(cs[0]))
        self.down = nn.Sequential(
            nn.Conv2d(cs[0], cs[1], 3, 2, 1, bias=False), nn.BatchNorm2d(cs[1])
        )

    def forward(self, xs):
        xs = [b(x) for b, x in zip(self.branches, xs)]
        a = xs[0] + F.interpolate(
            self.up(xs[1]),
            size=[xs[0].shape[-2], xs[0].shape[-1]],
            mode="bilinear",
            align_corners=True,
        )
        b = self.down(xs[0]) + xs[1]
        return [F.relu(a), F.relu(b)]


class HRNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.trans = nn.ModuleList([nn.Identity(), nn.Conv2d(16, 32, 3, 2, 1)])
        self.fuse = nn.Sequential(Fuse(), Fuse())
        self.last = nn.Sequential(
            nn.Conv2d(48, 24, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 7, 1)
        )

    def forward(self, x):
        x = F.relu(self.stem(x))
        xs = self.fuse([t(x) for t in self.trans])
        h, w = xs[0].size(2), xs[0].size(3)
        return self.last(torch.cat([xs[0], F.interpolate(xs[1], size=(h, w), mode="bilinear")], 1))


class Ghost(nn.Module):
    def __init__(self, inp, oup, ratio=2, dw=3):
        super().__init__()
        self.oup = oup
        init = math.ceil(oup / ratio)
        new = init * (ratio - 1)
        self.primary = nn.Sequential(
            nn.Conv2d(inp, init, 1, bias=False), nn.BatchNorm2d(init), nn.ReLU(inplace=True)
        )
        self.cheap = nn.Sequential(
            nn.Conv2d(init, new, dw, 1, dw // 2, groups=init, bias=False),
            nn.BatchNorm2d(new),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        x1 = self.primary(x)
        x2 = self.cheap(x1)
        return torch.cat([x1, x2], dim=1)[:, : self.oup, :, :]


class GhostNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.g1 = Ghost(16, 33)
        self.g2 = Ghost(33, 16)
        self.g3 = Ghost(16, 40)
        self.fc = nn.Linear(40, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = x + self.g2(self.g1(x))
        return self.fc(self.g3(x).mean((-1, -2)))


class MV(nn.Module):
    def __init__(self, c=32, d=48, p=2):
        super().__init__()
        self.p = p
        self.local = nn.Conv2d(c, c, 3, padding=1)
        self.proj = nn.Conv2d(c, d, 1, bias=False)
        self.enc = nn.TransformerEncoderLayer(d, 4, 64, 0.0, batch_first=True)
        self.back = nn.Conv2d(d, c, 1)
        self.fuse = nn.Conv2d(2 * c, c, 3, padding=1)

    def forward(self, x):
        y = x
        x = self.proj(self.local(x))
        b, d, h, w = x.shape
        p = self.p
        x = (
            x.reshape(b, d, h // p, p, w // p, p)
            .permute(0, 3, 5, 2, 4, 1)
            .reshape(b * p * p, -1, d)
        )
        x = self.enc(x)
        x = x.reshape(b, p, p, h // p, w // p, d).permute(0, 5, 3, 1, 4, 2).reshape(b, d, h, w)
        return self.fuse(torch.cat((y, self.back(x)), 1))


class MobileViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.mv = MV()
        self.out = nn.Conv2d(32, 64, 1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(F.silu(self.out(self.mv(F.silu(self.stem(x))))).mean((2, 3)))


class SlowFast(nn.Module):
    def __init__(self):
        super().__init__()
        self.s1 = nn.Conv3d(3, 32, (1, 3, 3), padding=(0, 1, 1))
        self.f1 = nn.Conv3d(3, 8, (5, 3, 3), padding=(2, 1, 1))
        self.lat = nn.Conv3d(8, 16, (5, 1, 1), stride=(4, 1, 1), padding=(2, 0, 0))
        self.s2 = nn.Conv3d(48, 64, 1)
        self.f2 = nn.Conv3d(8, 16, 3, padding=1)
        self.fc = nn.Linear(80, 10)

    def forward(self, slow, fast):
        s, f = F.relu(self.s1(slow)), F.relu(self.f1(fast))
        s = torch.cat([s, self.lat(f)], dim=1)
        s, f = self.s2(s), self.f2(f)
        return self.fc(torch.cat([F.adaptive_avg_pool3d(z, 1).flatten(1) for z in (s, f)], 1))


class ModConv(nn.Module):
    def __init__(self, i, o, z):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, o, i, 3, 3))
        self.mod = nn.Linear(z, i)
        self.o = o
        self.i = i

    def forward(self, x, z):
        b, c, h, w = x.shape
        wt = self.weight * self.mod(z).view(b, 1, c, 1, 1)
        wt = wt * torch.rsqrt(wt.pow(2).sum([2, 3, 4]) + 1e-8).view(b, self.o, 1, 1, 1)
        out = F.conv2d(x.view(1, b * c, h, w), wt.view(b * self.o, c, 3, 3), padding=1, groups=b)
        return out.view(b, self.o, h, w)


class Style(nn.Module):
    def __init__(self):
        super().__init__()
        self.const = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.map = nn.Sequential(
            nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2)
        )
        self.c1 = ModConv(16, 24, 32)
        self.c2 = ModConv(24, 16, 32)
        self.rgb = nn.Conv2d(16, 3, 1)

    def forward(self, z):
        w = self.map(z)
        x = self.const.repeat(z.shape[0], 1, 1, 1)
        return self.rgb(F.leaky_relu(self.c2(F.leaky_relu(self.c1(x, w), 0.2), w), 0.2))


class AttUNet(nn.Module):
    def __init__(self):
        super().__init__()

        def dc(i, o):
            return nn.Sequential(
                nn.Conv2d(i, o, 3),
                nn.InstanceNorm2d(o, affine=True),
                nn.LeakyReLU(0.1),
                nn.Conv2d(o, o, 3),
                nn.GroupNorm(4, o),
                nn.ReLU(),
            )

        self.d1 = dc(1, 16)
        self.d2 = dc(16, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.u1 = dc(32, 16)
        self.out = nn.Conv2d(16, 2, 1)
        self.wg = nn.Conv2d(16, 8, 1)
        self.wx = nn.Conv2d(16, 8, 1)
        self.psi = nn.Conv2d(8, 1, 1)

    @staticmethod
    def crop(x, h, w):
        dy, dx = (x.shape[2] - h) // 2, (x.shape[3] - w) // 2
        return x[:, :, dy : dy + h, dx : dx + w]

    def forward(self, x):
        a = self.d1(x)
        b = self.up(self.d2(F.max_pool2d(a, 2)))
        a = self.crop(a, b.shape[2], b.shape[3])
        a = a * torch.sigmoid(self.psi(F.relu(self.wg(b) + self.wx(a))))
        return self.out(self.u1(torch.cat([a, b], 1)))


class CondConv(nn.Module):
    def __init__(self, i, o, k=3, e=4):
        super().__init__()
        self.route = nn.Linear(i, e)
        self.weight = nn.Parameter(torch.randn(e, o, i, k, k) * 0.1)
        self.k = k

    def forward(self, x):
        b, c, h, w = x.shape
        r = torch.sigmoid(self.route(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        wt = torch.einsum("be,eoikl->boikl", r, self.weight)
        o = wt.shape[1]
        return F.conv2d(
            x.reshape(1, -1, h, w), wt.reshape(b * o, c, self.k, self.k), padding=1, groups=b
        ).reshape(b, o, h, w)


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = CondConv(16, 24)
        self.c = nn.Conv2d(24, 10, 1)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x))))).amax((2, 3))


class CRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(32, 48, (4, 3), padding=(0, 1)),
        )
        self.rnn = nn.LSTM(48, 32, bidirectional=True)
        self.emb = nn.Linear(64, 11)

    def forward(self, x):
        f = self.cnn(x)
        b, c, h, w = f.size()
        assert h == 1
        f = f.squeeze(2).permute(2, 0, 1)
        r, _ = self.rnn(f)
        T, b, h = r.size()
        return self.emb(r.view(T * b, h)).view(T, b, -1)
