"""Blocks that papers introduced, in the words of their reference code."""

import math
import torch
import torch.nn.functional as F
from torch import nn


class DETR(nn.Module):
    def __init__(self, d=32, q=5):
        super().__init__()
        self.b1 = nn.Conv2d(3, 24, 3, 2, 1)
        self.b2 = nn.Conv2d(24, 48, 3, 2, 1)
        self.inp = nn.Conv2d(48, d, 1)
        self.tr = nn.Transformer(d, 4, 1, 1, 64, 0.0, batch_first=True)
        self.query = nn.Embedding(q, d)
        self.row = nn.Parameter(torch.rand(10, d // 2))
        self.col = nn.Parameter(torch.rand(10, d // 2))
        self.cls = nn.Linear(d, 7)
        self.box = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))

    def forward(self, x):
        f = self.inp(F.relu(self.b2(F.relu(self.b1(x)))))
        h, w = f.shape[-2:]
        pos = (
            torch.cat(
                [
                    self.col[:w].unsqueeze(0).repeat(h, 1, 1),
                    self.row[:h].unsqueeze(1).repeat(1, w, 1),
                ],
                -1,
            )
            .flatten(0, 1)
            .unsqueeze(0)
        )
        q = self.query.weight.unsqueeze(0).expand(x.shape[0], -1, -1)
        o = self.tr(pos + f.flatten(2).transpose(1, 2), q)
        return {"logits": self.cls(o), "boxes": self.box(o).sigmoid()}


class ConvLSTM(nn.Module):
    def __init__(self, i=3, h=16):
        super().__init__()
        self.h = h
        self.gates = nn.Conv2d(i + h, 4 * h, 3, padding=1)
        self.head = nn.Conv2d(h, 5, 1)

    def forward(self, seq):
        b, t, c, hh, w = seq.shape
        hx = seq.new_zeros(b, self.h, hh, w)
        cx = seq.new_zeros(b, self.h, hh, w)
        for k in range(t):
            i, f, o, g = torch.split(self.gates(torch.cat([seq[:, k], hx], 1)), self.h, dim=1)
            cx = torch.sigmoid(f) * cx + torch.sigmoid(i) * torch.tanh(g)
            hx = torch.sigmoid(o) * torch.tanh(cx)
        return self.head(hx)


class WaveNet(nn.Module):
    def __init__(self, r=16, s=24):
        super().__init__()
        self.start = nn.Conv1d(1, r, 1)
        self.filt = nn.ModuleList(nn.Conv1d(r, 2 * r, 2, dilation=2**i) for i in range(3))
        self.res = nn.ModuleList(nn.Conv1d(r, r, 1) for _ in range(3))
        self.skip = nn.ModuleList(nn.Conv1d(r, s, 1) for _ in range(3))
        self.e1 = nn.Conv1d(s, 32, 1)
        self.e2 = nn.Conv1d(32, 8, 1)

    def forward(self, x):
        x = self.start(x)
        skip = 0
        for f, r, k in zip(self.filt, self.res, self.skip):
            a, b = f(x).chunk(2, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            s = k(y)
            try:
                skip = skip[:, :, -s.size(2) :]
            except TypeError:
                skip = 0
            skip = s + skip
            x = r(y) + x[:, :, -y.size(2) :]
        return self.e2(F.relu(self.e1(F.relu(skip))))


class LayerNorm2d(nn.Module):
    def __init__(self, c, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))
        self.bias = nn.Parameter(torch.zeros(c))
        self.eps = eps

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return (
            self.weight[:, None, None] * ((x - u) / torch.sqrt(s + self.eps))
            + self.bias[:, None, None]
        )


class SimpleGate(nn.Module):
    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return a * b


class NAFBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c1 = nn.Conv2d(c, 2 * c, 1)
        self.c2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.c3 = nn.Conv2d(c, c, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.sg = SimpleGate()
        self.c4 = nn.Conv2d(c, 2 * c, 1)
        self.c5 = nn.Conv2d(c, c, 1)
        self.n1 = LayerNorm2d(c)
        self.n2 = LayerNorm2d(c)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, inp):
        x = self.sg(self.c2(self.c1(self.n1(inp))))
        x = self.c3(x * self.sca(x))
        y = inp + x * self.beta
        return y + self.c5(self.sg(self.c4(self.n2(y)))) * self.gamma


class NAFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.intro = nn.Conv2d(3, 16, 3, padding=1)
        self.enc = NAFBlock(16)
        self.down = nn.Conv2d(16, 32, 2, 2)
        self.mid = NAFBlock(32)
        self.up = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.PixelShuffle(2))
        self.dec = NAFBlock(16)
        self.end = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        a = self.enc(self.intro(x))
        b = self.mid(self.down(a))
        c = self.dec(self.up(b) + a)
        return self.end(c) + x


class Res2(nn.Module):
    def __init__(self, c=32, w=8, scale=4):
        super().__init__()
        self.w, self.scale = w, scale
        self.c1 = nn.Conv2d(c, w * scale, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(w * scale)
        self.convs = nn.ModuleList(
            [nn.Conv2d(w, w, 3, padding=1, bias=False) for _ in range(scale - 1)]
        )
        self.bns = nn.ModuleList([nn.BatchNorm2d(w) for _ in range(scale - 1)])
        self.c3 = nn.Conv2d(w * scale, c, 1)

    def forward(self, x):
        o = F.relu(self.bn1(self.c1(x)))
        spx = torch.split(o, self.w, 1)
        for i in range(self.scale - 1):
            sp = spx[i] if i == 0 else sp + spx[i]
            sp = F.relu(self.bns[i](self.convs[i](sp)))
            out = sp if i == 0 else torch.cat((out, sp), 1)
        return x + self.c3(torch.cat((out, spx[self.scale - 1]), 1))


class Res2Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 32, 3, 2, 1)
        self.b = nn.Sequential(Res2(), Res2())
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.b(F.relu(self.s(x))).mean((2, 3)))


class ASPP(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 32, 3, 2, 1)
        self.br = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(
                        32, 16, 3 if d > 1 else 1, padding=d if d > 1 else 0, dilation=d, bias=False
                    ),
                    nn.BatchNorm2d(16),
                    nn.ReLU(),
                )
                for d in (1, 2, 4)
            ]
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 16, 1), nn.ReLU())
        self.proj = nn.Sequential(nn.Conv2d(64, 24, 1), nn.Dropout(0.1))
        self.cls = nn.Conv2d(24, 6, 1)

    def forward(self, x):
        size = x.shape[-2:]
        f = F.relu(self.s(x))
        ys = [b(f) for b in self.br] + [
            F.interpolate(self.pool(f), size=f.shape[2:], mode="bilinear", align_corners=False)
        ]
        return F.interpolate(
            self.cls(self.proj(torch.cat(ys, dim=1))),
            size=size,
            mode="bilinear",
            align_corners=False,
        )


class STN(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Sequential(
            nn.Conv2d(1, 8, 7),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
            nn.Conv2d(8, 10, 5),
            nn.MaxPool2d(2, 2),
            nn.ReLU(True),
        )
        self.fc_loc = nn.Sequential(nn.Linear(10 * 3 * 3, 32), nn.ReLU(True), nn.Linear(32, 6))
        self.c1 = nn.Conv2d(1, 10, 5)
        self.c2 = nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d()
        self.f1 = nn.Linear(320, 50)
        self.f2 = nn.Linear(50, 10)

    def forward(self, x):
        xs = self.loc(x).view(-1, 10 * 3 * 3)
        th = self.fc_loc(xs).view(-1, 2, 3)
        x = F.grid_sample(x, F.affine_grid(th, x.size(), align_corners=False), align_corners=False)
        x = F.relu(F.max_pool2d(self.c1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.c2(x)), 2))
        return F.log_softmax(
            self.f2(F.dropout(F.relu(self.f1(x.view(-1, 320))), training=self.training)), dim=1
        )


class VAE(nn.Module):
    def __init__(self, z=8):
        super().__init__()
        self.e = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()
        )
        self.mu = nn.Linear(32 * 16, z)
        self.lv = nn.Linear(32 * 16, z)
        self.fc = nn.Linear(z, 32 * 4 * 4)
        self.d = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        h = self.e(x).flatten(1)
        mu, lv = self.mu(h), self.lv(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * lv) if self.training else mu
        return self.d(self.fc(z).view(-1, 32, 4, 4)), mu, lv


class UpPad(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 32, 3, padding=1)
        self.c = nn.Conv2d(48, 16, 3, padding=1)
        self.o = nn.Conv2d(16, 2, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def forward(self, x):
        x2 = F.relu(self.a(x))
        x1 = self.up(F.relu(self.b(F.max_pool2d(x2, 2))))
        dy, dx = x2.size()[2] - x1.size()[2], x2.size()[3] - x1.size()[3]
        x1 = F.pad(x1, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.o(F.relu(self.c(torch.cat([x2, x1], dim=1))))


class BlurPool(nn.Module):
    def __init__(self, c):
        super().__init__()
        a = torch.tensor([1.0, 2.0, 1.0])
        f = a[:, None] * a[None, :]
        f = f / f.sum()
        self.register_buffer("filt", f[None, None, :, :].repeat((c, 1, 1, 1)))
        self.pad = nn.ReflectionPad2d(1)
        self.c = c

    def forward(self, x):
        return F.conv2d(self.pad(x), self.filt, stride=2, groups=x.shape[1])


class CoordConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(5, 16, 3, padding=1)
        self.bp = BlurPool(16)
        self.b = nn.Conv2d(16, 24, 3, padding=1)
        self.g = nn.GLU(dim=1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        n, _, h, w = x.shape
        yy, xx = torch.meshgrid(
            torch.linspace(-1, 1, h, dtype=x.dtype),
            torch.linspace(-1, 1, w, dtype=x.dtype),
            indexing="ij",
        )
        c = torch.stack([yy, xx]).unsqueeze(0).expand(n, -1, -1, -1)
        return self.fc(self.g(self.b(self.bp(F.relu(self.a(torch.cat([x, c], 1)))))).mean((2, 3)))


class TNet(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k
        self.c1 = nn.Conv1d(k, 16, 1)
        self.c2 = nn.Conv1d(16, 32, 1)
        self.f1 = nn.Linear(32, 16)
        self.f2 = nn.Linear(16, k * k)

    def forward(self, x):
        b = x.size(0)
        x = torch.max(F.relu(self.c2(F.relu(self.c1(x)))), 2, keepdim=True)[0].view(-1, 32)
        x = self.f2(F.relu(self.f1(x)))
        return (x + torch.eye(self.k, dtype=x.dtype).flatten().view(1, -1)).view(-1, self.k, self.k)


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = TNet(3)
        self.c1 = nn.Conv1d(3, 24, 1)
        self.ft = TNet(24)
        self.c2 = nn.Conv1d(24, 48, 1)
        self.fc = nn.Linear(48 + 24, 5)

    def forward(self, x):
        x = torch.bmm(x.transpose(2, 1), self.t(x)).transpose(2, 1)
        x = F.relu(self.c1(x))
        x = torch.bmm(x.transpose(2, 1), self.ft(x)).transpose(2, 1)
        p = x
        g = torch.max(self.c2(x), 2)[0]
        return self.fc(torch.cat([g.unsqueeze(2).repeat(1, 1, p.size(2)), p], 1).transpose(1, 2))


class NonLocal(nn.Module):
    def __init__(self, c=32):
        super().__init__()
        self.s = nn.Conv2d(3, c, 3, 2, 1)
        self.th = nn.Conv2d(c, c // 2, 1)
        self.ph = nn.Conv2d(c, c // 2, 1)
        self.g = nn.Conv2d(c, c // 2, 1)
        self.w = nn.Conv2d(c // 2, c, 1)
        self.bn = nn.BatchNorm2d(c)
        self.inter = c // 2
        self.fc = nn.Linear(c, 4)

    def forward(self, x):
        x = F.relu(self.s(x))
        b = x.size(0)
        g = self.g(x).view(b, self.inter, -1).permute(0, 2, 1)
        th = self.th(x).view(b, self.inter, -1).permute(0, 2, 1)
        ph = self.ph(x).view(b, self.inter, -1)
        y = (
            torch.matmul(F.softmax(torch.matmul(th, ph), dim=-1), g)
            .permute(0, 2, 1)
            .contiguous()
            .view(b, self.inter, *x.size()[2:])
        )
        return self.fc((self.bn(self.w(y)) + x).mean((2, 3)))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.PReLU(16),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3),
            nn.PReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
            nn.Linear(32, 16),
        )
        self.scale = nn.Parameter(torch.tensor(5.0))

    def one(self, x):
        return F.normalize(self.net(x), dim=1)

    def forward(self, a, b):
        a, b = self.one(a), self.one(b)
        return self.scale * F.cosine_similarity(a, b), torch.pairwise_distance(a, b)


class MixConv(nn.Module):
    def __init__(self, c, ks=(3, 5)):
        super().__init__()
        self.splits = [c // 2, c - c // 2]
        self.convs = nn.ModuleList(
            nn.Conv2d(s, s, k, padding=k // 2, groups=s) for s, k in zip(self.splits, ks)
        )

    def forward(self, x):
        return torch.cat([c(t) for c, t in zip(self.convs, torch.split(x, self.splits, 1))], 1)


class MixNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 17, 3, 2, 1)
        self.m = MixConv(17)
        self.p = nn.Conv2d(17, 32, 1)
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(F.silu(self.p(self.m(F.silu(self.s(x))))).mean((2, 3)))


class LinAttn(nn.Module):
    def __init__(self, c=32, heads=4, dh=8):
        super().__init__()
        self.s = nn.Conv2d(3, c, 3, 2, 1)
        self.heads = heads
        self.scale = dh**-0.5
        self.qkv = nn.Conv2d(c, heads * dh * 3, 1, bias=False)
        self.out = nn.Conv2d(heads * dh, c, 1)
        self.fc = nn.Linear(c, 4)

    def forward(self, x):
        x = F.relu(self.s(x))
        b, c, h, w = x.shape
        q, k, v = (t.reshape(b, self.heads, -1, h * w) for t in self.qkv(x).chunk(3, dim=1))
        q = q.softmax(dim=-2) * self.scale
        k = k.softmax(dim=-1)
        ctx = torch.einsum("bhdn,bhen->bhde", k, v)
        o = torch.einsum("bhde,bhdn->bhen", ctx, q).reshape(b, -1, h, w)
        return self.fc((x + self.out(o)).mean((2, 3)))


class Diffusion(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.c = c
        self.te = nn.Sequential(nn.Linear(c, 4 * c), nn.SiLU(), nn.Linear(4 * c, 4 * c))
        self.i = nn.Conv2d(3, c, 3, padding=1)
        self.n = nn.GroupNorm(4, c)
        self.cv = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.tp = nn.Linear(4 * c, 4 * c)
        self.n2 = nn.GroupNorm(8, 2 * c)
        self.cv2 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.o = nn.Conv2d(c, 3, 3, padding=1)

    def forward(self, x, t):
        half = self.c // 2
        f = torch.exp(-math.log(10000) * torch.arange(half, dtype=x.dtype) / half)
        a = t[:, None].to(x.dtype) * f[None]
        e = self.te(torch.cat([a.cos(), a.sin()], -1))
        h = self.i(x)
        r = h
        h = self.cv(F.silu(self.n(h)))
        sc, sh = self.tp(F.silu(e))[:, :, None, None].chunk(2, 1)
        h = self.n2(h) * (1 + sc) + sh
        return self.o(self.cv2(F.silu(h)) + r)


class ArcHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.PReLU(16),
            nn.Conv2d(16, 32, 3, 2, 1, groups=2),
            nn.BatchNorm2d(32),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(32 * 16, 24),
            nn.BatchNorm1d(24),
        )
        self.w = nn.Parameter(torch.randn(7, 24))

    def forward(self, x):
        return F.linear(F.normalize(self.b(x)), F.normalize(self.w)) * 30.0


class SK(nn.Module):
    def __init__(self, c=16, m=2, r=4):
        super().__init__()
        self.s = nn.Conv2d(3, c, 3, 2, 1)
        d = max(c // r, 8)
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(c, c, 3, padding=1 + i, dilation=1 + i, groups=4, bias=False),
                    nn.BatchNorm2d(c),
                    nn.ReLU(),
                )
                for i in range(m)
            ]
        )
        self.fc = nn.Sequential(nn.Conv2d(c, d, 1), nn.ReLU())
        self.fcs = nn.ModuleList([nn.Conv2d(d, c, 1) for _ in range(m)])
        self.m = m
        self.c = c
        self.out = nn.Linear(c, 4)

    def forward(self, x):
        x = self.s(x)
        b = x.size(0)
        f = torch.cat([c(x) for c in self.convs], dim=1).view(
            b, self.m, self.c, x.shape[2], x.shape[3]
        )
        z = self.fc(f.sum(1).mean((2, 3), keepdim=True))
        a = torch.cat([g(z) for g in self.fcs], dim=1).view(b, self.m, self.c, 1, 1).softmax(1)
        return self.out((f * a.expand_as(f)).sum(dim=1).mean((2, 3)))
