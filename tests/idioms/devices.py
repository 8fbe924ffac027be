"""Networks for small devices: key words, sensors, faces, poses, text lines."""

import math
import torch
import torch.nn as nn
import torch.nn.functional as F


class SubSpectralNorm(nn.Module):
    def __init__(self, c, s=4):
        super().__init__()
        self.s = s
        self.bn = nn.BatchNorm2d(c * s)

    def forward(self, x):
        n, c, f, t = x.size()
        x = x.view(n, c * self.s, f // self.s, t)
        return self.bn(x).view(n, c, f, t)


class BCRes(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.trans = i != o
        self.p = (
            nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            if self.trans
            else None
        )
        self.f2 = nn.Conv2d(o, o, (3, 1), padding=(1, 0), groups=o, bias=False)
        self.ssn = SubSpectralNorm(o, 4)
        self.f1 = nn.Sequential(
            nn.Conv2d(o, o, (1, 3), padding=(0, 1), groups=o, bias=False),
            nn.BatchNorm2d(o),
            nn.SiLU(),
            nn.Conv2d(o, o, 1, bias=False),
            nn.Dropout2d(0.1),
        )

    def forward(self, x):
        y = self.p(x) if self.trans else x
        a = self.ssn(self.f2(y))
        b = self.f1(a.mean(2, keepdim=True))
        out = a + b
        return F.relu(out if self.trans else out + x)


class BCResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(1, 16, 5, (2, 1), 2)
        self.b = nn.Sequential(BCRes(16, 8), BCRes(8, 8), BCRes(8, 12))
        self.c = nn.Conv2d(12, 32, 1)
        self.o = nn.Conv2d(32, 10, 1)

    def forward(self, x):
        return self.o(F.relu(self.c(self.b(self.head(x)))).mean((2, 3), keepdim=True)).squeeze()


class EEGNet(nn.Module):
    def __init__(self, ch=8, T=64, F1=8, D=2, F2=16, nc=4):
        super().__init__()
        self.c1 = nn.Conv2d(1, F1, (1, 33), padding=(0, 16), bias=False)
        self.b1 = nn.BatchNorm2d(F1)
        self.dw = nn.Conv2d(F1, F1 * D, (ch, 1), groups=F1, bias=False)
        self.b2 = nn.BatchNorm2d(F1 * D)
        self.sep = nn.Sequential(
            nn.Conv2d(F1 * D, F1 * D, (1, 16), padding="same", groups=F1 * D, bias=False),
            nn.Conv2d(F1 * D, F2, 1, bias=False),
            nn.BatchNorm2d(F2),
            nn.ELU(),
        )
        self.fc = nn.Linear(F2 * (T // 32), nc)
        self.F2 = F2

    def forward(self, x):
        x = x.unsqueeze(1)
        x = F.avg_pool2d(F.elu(self.b2(self.dw(self.b1(self.c1(x))))), (1, 4))
        x = F.avg_pool2d(self.sep(x), (1, 8))
        return self.fc(x.reshape(x.shape[0], -1))


class SincConv(nn.Module):
    def __init__(self, o=12, k=33, sr=16000):
        super().__init__()
        self.k = k
        f = torch.linspace(30, sr / 2 - 100, o + 1)
        self.low = nn.Parameter(f[:-1].view(-1, 1) / sr)
        self.band = nn.Parameter((f[1:] - f[:-1]).view(-1, 1) / sr)
        n = (k - 1) / 2.0
        self.register_buffer("n_", 2 * math.pi * torch.arange(-n, 0).view(1, -1))
        self.register_buffer("win", torch.hamming_window(k)[: k // 2])

    def forward(self, x):
        low = self.low.abs() + 0.003
        high = low + self.band.abs()
        lt, ht = low @ self.n_, high @ self.n_
        left = (torch.sin(ht) - torch.sin(lt)) / (self.n_ / 2) * self.win
        center = 2 * (high - low).view(-1, 1)
        w = torch.cat([left, center, left.flip(1)], 1) / (2 * (high - low))
        return F.conv1d(x, w.unsqueeze(1), padding=self.k // 2)


class SincNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = SincConv()
        self.ln = nn.LayerNorm([12, 16])
        self.c = nn.Conv1d(12, 24, 5)
        self.c2 = nn.Conv1d(24, 16, 3)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(
            F.leaky_relu(
                self.c2(F.leaky_relu(self.c(self.ln(F.max_pool1d(self.s(x).abs(), 4)))))
            ).mean(-1)
        )


class InceptionTime(nn.Module):
    def __init__(self, i=3, n=8):
        super().__init__()
        self.bott = nn.Conv1d(i, n, 1, bias=False)
        self.cs = nn.ModuleList([nn.Conv1d(n, n, k, padding=k // 2, bias=False) for k in (9, 5, 3)])
        self.mp = nn.MaxPool1d(3, 1, 1)
        self.cp = nn.Conv1d(i, n, 1, bias=False)
        self.bn = nn.BatchNorm1d(4 * n)
        self.sc = nn.Sequential(nn.Conv1d(i, 4 * n, 1), nn.BatchNorm1d(4 * n))
        self.fc = nn.Linear(4 * n, 3)

    def forward(self, x):
        b = self.bott(x)
        z = torch.cat([c(b) for c in self.cs] + [self.cp(self.mp(x))], dim=1)
        return self.fc(torch.relu(self.bn(z) + self.sc(x)).mean(-1))


class Stage(nn.Module):
    def __init__(self, i):
        super().__init__()
        self.t = nn.Sequential(
            nn.Conv2d(i, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.paf = nn.Conv2d(16, 6, 1)
        self.heat = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.t(x)
        return self.paf(x), self.heat(x)


class OpenPose(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU()
        )
        self.s1 = Stage(24)
        self.s2 = Stage(34)
        self.s3 = Stage(34)

    def forward(self, x):
        f = self.f(x)
        outs = []
        p, h = self.s1(f)
        outs.append((p, h))
        for s in (self.s2, self.s3):
            p, h = s(torch.cat([f, p, h], 1))
            outs.append((p, h))
        return outs


class RetinaHead(nn.Module):
    def __init__(self, c, na, no):
        super().__init__()
        self.na, self.no = na, no
        self.conv = nn.Conv2d(c, na * no, 1)

    def forward(self, x):
        return self.conv(x).permute(0, 2, 3, 1).contiguous().view(x.shape[0], -1, self.no)


class SSH(nn.Module):
    def __init__(self, c):
        super().__init__()
        assert c % 4 == 0
        self.a = nn.Conv2d(c, c // 2, 3, padding=1)
        self.b1 = nn.Conv2d(c, c // 4, 3, padding=1)
        self.b2 = nn.Conv2d(c // 4, c // 4, 3, padding=1)
        self.c2 = nn.Conv2d(c // 4, c // 4, 3, padding=1)
        self.c3 = nn.Conv2d(c // 4, c // 4, 3, padding=1)

    def forward(self, x):
        b = F.relu(self.b1(x))
        return F.relu(torch.cat([self.a(x), self.b2(b), self.c3(F.relu(self.c2(b)))], dim=1))


class RetinaFace(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 16, 3, 2, 1)
        self.c2 = nn.Conv2d(16, 32, 3, 2, 1)
        self.o1 = nn.Conv2d(16, 16, 1)
        self.o2 = nn.Conv2d(32, 16, 1)
        self.m = nn.Conv2d(16, 16, 3, padding=1)
        self.ssh = nn.ModuleList([SSH(16), SSH(16)])
        self.cls = nn.ModuleList([RetinaHead(16, 2, 2) for _ in range(2)])
        self.box = nn.ModuleList([RetinaHead(16, 2, 4) for _ in range(2)])

    def forward(self, x):
        a = F.leaky_relu(self.c1(x), 0.1)
        b = F.leaky_relu(self.c2(a), 0.1)
        o2 = self.o2(b)
        o1 = self.m(self.o1(a) + F.interpolate(o2, size=[a.size(2), a.size(3)], mode="nearest"))
        fs = [s(f) for s, f in zip(self.ssh, (o1, o2))]
        c = torch.cat([h(f) for h, f in zip(self.cls, fs)], 1)
        r = torch.cat([h(f) for h, f in zip(self.box, fs)], 1)
        return (r, c) if self.training else (r, F.softmax(c, dim=-1))


class BiSeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.sp = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.cp1 = nn.Conv2d(3, 24, 3, 2, 1)
        self.cp2 = nn.Conv2d(24, 32, 3, 2, 1)
        self.arm = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32), nn.Sigmoid()
        )
        self.red = nn.Conv2d(32, 16, 1)
        self.ffm = nn.Conv2d(32, 24, 1)
        self.at = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(24, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 24, 1),
            nn.Sigmoid(),
        )
        self.out = nn.Conv2d(24, 5, 1)

    def forward(self, x):
        s = self.sp(x)
        c = F.relu(self.cp2(F.relu(self.cp1(x))))
        c = torch.mul(c, self.arm(c))
        c = F.interpolate(self.red(c), scale_factor=2, mode="bilinear")
        f = F.relu(self.ffm(torch.cat((s, c), 1)))
        f = torch.add(f, torch.mul(f, self.at(f)))
        return F.interpolate(self.out(f), x.size()[2:], mode="bilinear", align_corners=True)


class ESP(nn.Module):
    def __init__(self, i, o, K=4):
        super().__init__()
        n = o // K
        n1 = o - (K - 1) * n
        self.c1 = nn.Conv2d(i, n, 1, bias=False)
        self.d1 = nn.Conv2d(n, n1, 3, padding=1, bias=False)
        self.ds = nn.ModuleList(
            [nn.Conv2d(n, n, 3, padding=2**k, dilation=2**k, bias=False) for k in range(1, K)]
        )
        self.bn = nn.BatchNorm2d(o)
        self.act = nn.PReLU(o)
        self.add = i == o

    def forward(self, x):
        y = self.c1(x)
        outs = [self.d1(y)]
        acc = None
        for d in self.ds:
            acc = d(y) if acc is None else acc + d(y)
            outs.append(acc)
        c = torch.cat(outs, 1)
        return self.act(self.bn(x + c if self.add else c))


class ESPNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.s = nn.Conv2d(3, 16, 3, 2, 1)
        self.e = nn.Sequential(ESP(16, 18), ESP(18, 18))
        self.o = nn.Conv2d(18, 4, 1)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.m = nn.Conv2d(21, 16, 1)

    def forward(self, x):
        return self.o(self.e(self.s(x))), self.m(torch.cat([self.pool(x), self.e(self.s(x))], 1))


class KWS(nn.Module):
    def __init__(self, feats=40):
        super().__init__()
        self.bn0 = nn.BatchNorm1d(feats)
        self.conv = nn.Conv1d(feats, 32, 3, padding=1)
        self.gru = nn.GRU(32, 24, batch_first=True)
        self.att = nn.Linear(24, 1)
        self.fc = nn.Linear(24, 6)
        self.pe = nn.Parameter(torch.zeros(1, 100, 32))

    def forward(self, x):
        x = F.relu(self.conv(self.bn0(x))).transpose(1, 2)
        x = x + self.pe[:, : x.size(1)]
        y, h = self.gru(x)
        w = torch.softmax(self.att(y).squeeze(-1), dim=1).unsqueeze(1)
        return self.fc(torch.bmm(w, y).squeeze(1) + h[-1])


class Seq2(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()
        )
        self.r1 = nn.LSTM(16 * 4, 20, bidirectional=True, batch_first=True)
        self.l1 = nn.Linear(40, 24)
        self.r2 = nn.LSTM(24, 16, batch_first=True)
        self.o = nn.Linear(16, 7)

    def forward(self, x):
        f = self.cnn(x)
        b, c, h, w = f.shape
        f = f.permute(0, 3, 1, 2).reshape(b, w, c * h)
        y, _ = self.r1(f)
        y, (hn, cn) = self.r2(F.relu(self.l1(y)))
        return F.log_softmax(self.o(y), 2), hn


class MobileOne(nn.Module):
    def __init__(self, i=16, o=16, k=3):
        super().__init__()
        self.stem = nn.Conv2d(3, i, 3, 2, 1)
        self.skip = nn.BatchNorm2d(i)
        self.scale = nn.Sequential(nn.Conv2d(i, o, 1, groups=i, bias=False), nn.BatchNorm2d(o))
        self.convs = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(i, o, k, padding=1, groups=i, bias=False), nn.BatchNorm2d(o)
                )
                for _ in range(3)
            ]
        )
        self.pw = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(o, 24, 1, bias=False), nn.BatchNorm2d(24)) for _ in range(2)]
        )
        self.fc = nn.Linear(24, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        out = self.scale(x) + self.skip(x)
        for ix in range(3):
            out += self.convs[ix](x)
        x = F.relu(out)
        y = 0
        for p in self.pw:
            y += p(x)
        return self.fc(F.relu(y).mean((2, 3)))


class Crossed(nn.Module):
    def __init__(self):
        super().__init__()
        self.img = nn.Conv2d(3, 16, 3, 2, 1)
        self.kv = nn.Linear(16, 32)
        self.q = nn.Parameter(torch.randn(1, 4, 16))
        self.mha = nn.MultiheadAttention(16, 2, batch_first=True, kdim=16, vdim=16)
        self.tab = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16))
        self.o = nn.Linear(32, 3)
        self.film = nn.Linear(6, 32)

    def forward(self, x, t):
        f = F.relu(self.img(x))
        g, b = self.film(t)[..., None, None].chunk(2, 1)
        f = g * f + b
        k = f.flatten(2).mT
        a, _ = self.mha(self.q.expand(x.size(0), -1, -1), k, k, need_weights=False)
        return self.o(torch.cat([a.mean(1), self.tab(t)], -1))
