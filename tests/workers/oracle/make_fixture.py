# Kept as it was written, apart from the engine that it checks.
# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""Generate (or verify) the oracle fixture for hypergradients of SGD with momentum.

Everything here is plain NumPy in float64, with hand-written first derivatives
and Hessian-vector products (no automatic differentiation), so that it shares
no code with the engine it is meant to check.  See README.md for the equations.

    python make_fixture.py            write fixture.npz next to this file
    python make_fixture.py --check    recompute and compare with fixture.npz,
                                      and compare with finite differences
"""
import argparse
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SIZES = (20, 8, 5)          # input, hidden, classes
T = 30                      # inner steps
BATCH = 10
N_TRAIN, N_VALID = 60, 40
LOG_L2 = -4.0               # fixed penalty on z in problem "scaled"


# ------------------------------------------------------------------ network
class MLP:
    """tanh MLP with log-softmax output; one flat weight vector ordered
    W0 (row-major, in x out), b0, W1, b1, ..."""

    def __init__(self, sizes):
        self.sizes = tuple(sizes)
        self.blocks, start = [], 0
        for layer, (m, n) in enumerate(zip(sizes[:-1], sizes[1:])):
            for kind, shape in (("W", (m, n)), ("b", (n,))):
                size = int(np.prod(shape))
                self.blocks.append((f"{kind}{layer}", slice(start, start + size), shape))
                start += size
        self.size = start

    def unpack(self, w):
        parts = [w[s].reshape(shape) for _, s, shape in self.blocks]
        return parts[0::2], parts[1::2]

    def _forward(self, Ws, bs, X):
        acts = [X]
        for k, (W, b) in enumerate(zip(Ws, bs)):
            a = acts[-1] @ W + b
            acts.append(np.tanh(a) if k < len(Ws) - 1 else a)
        a = acts[-1] - acts[-1].max(axis=1, keepdims=True)
        e = np.exp(a)
        z = e.sum(axis=1, keepdims=True)
        return acts, e / z, a - np.log(z)

    def loss(self, w, X, Y):
        return -np.sum(self._forward(*self.unpack(w), X)[2] * Y) / len(X)

    def error(self, w, X, Y):
        return 100.0 * np.mean(self._forward(*self.unpack(w), X)[2].argmax(1) != Y.argmax(1))

    def grad(self, w, X, Y, u=None):
        """Gradient of the mean negative log-likelihood; with u also H u
        (forward-over-reverse, Pearlmutter's R operator)."""
        Ws, bs = self.unpack(w)
        acts, p, _ = self._forward(Ws, bs, X)
        L, n = len(Ws), len(X)
        if u is not None:
            Us, cs = self.unpack(u)
            r_acts = [np.zeros_like(X)]
            for k in range(L):
                r = acts[k] @ Us[k] + cs[k]
                if k:
                    r = r + r_acts[k] @ Ws[k]
                r_acts.append((1.0 - acts[k + 1] ** 2) * r if k < L - 1 else r)
        rows = Y.sum(axis=1, keepdims=True)
        delta = (p * rows - Y) / n
        if u is not None:
            r = r_acts[-1]
            r_delta = p * (r - np.sum(p * r, axis=1, keepdims=True)) * rows / n
        g = np.empty(self.size)
        h = np.empty(self.size) if u is not None else None
        for k in range(L - 1, -1, -1):
            sW, sb = self.blocks[2 * k][1], self.blocks[2 * k + 1][1]
            g[sW] = (acts[k].T @ delta).ravel()
            g[sb] = delta.sum(axis=0)
            if u is not None:
                h[sW] = (acts[k].T @ r_delta + r_acts[k].T @ delta).ravel()
                h[sb] = r_delta.sum(axis=0)
            if k:
                slope = 1.0 - acts[k] ** 2
                back = delta @ Ws[k].T
                if u is not None:
                    r_back = r_delta @ Ws[k].T + delta @ Us[k].T
                    r_delta = slope * r_back - 2.0 * acts[k] * r_acts[k] * back
                delta = slope * back
        return g if u is None else (g, h)


# ------------------------------------------------------------------ problems
class Scaled:
    """z is trained, w = z * exp(m):  nll(z * exp(m)) + exp(log_l2) * |z|^2.
    Equivalent strength on w: log-L2 = log_l2 - 2 m."""

    def __init__(self, net, train, batches, valid, log_l2=LOG_L2):
        self.net, self.train, self.batches, self.valid = net, train, batches, valid
        self.c = np.exp(log_l2)

    def _batch(self, i):
        return self.train[0][self.batches[i]], self.train[1][self.batches[i]]

    def grad(self, x, m, i):
        s = np.exp(m)
        return s * self.net.grad(x * s, *self._batch(i)) + 2.0 * self.c * x

    def second(self, x, m, d, i):
        """g, d/dx <g, d>, d/dm <g, d>"""
        s = np.exp(m)
        u = s * d
        g, h = self.net.grad(x * s, *self._batch(i), u=u)
        return s * g + 2.0 * self.c * x, s * h + 2.0 * self.c * d, x * s * h + g * u

    def outer(self, x, m):
        """validation loss, d/dx, direct d/dm"""
        s = np.exp(m)
        g = self.net.grad(x * s, *self.valid)
        return self.net.loss(x * s, *self.valid), s * g, x * s * g


class Penalty(Scaled):
    """w is trained directly:  nll(w) + sum_j exp(m_j) w_j^2."""

    def grad(self, x, m, i):
        return self.net.grad(x, *self._batch(i)) + 2.0 * np.exp(m) * x

    def second(self, x, m, d, i):
        g, h = self.net.grad(x, *self._batch(i), u=d)
        k = 2.0 * np.exp(m)
        return g + k * x, h + k * d, k * x * d

    def outer(self, x, m):
        return self.net.loss(x, *self.valid), self.net.grad(x, *self.valid), np.zeros_like(m)


# ------------------------------------------------------------------ inner loop
def as_vector(groups, row, size):
    """Spread one schedule row over the weights: scalar, or one value per group."""
    if groups is None:
        return row
    out = np.empty(size)
    for s, value in zip(groups, row):
        out[s] = value
    return out


def per_group(groups, a, b):
    return a @ b if groups is None else np.array([a[s] @ b[s] for s in groups])


def train(p, x0, alphas, gammas, m, groups=None, keep=True):
    """Returns x_0..x_T and v_0..v_T (v_0 = 0)."""
    xs, vs = [x0], [np.zeros_like(x0)]
    for i in range(len(alphas)):
        a = as_vector(groups, alphas[i], x0.size)
        c = as_vector(groups, gammas[i], x0.size)
        v = c * vs[-1] - (1.0 - c) * p.grad(xs[-1], m, i)
        x = xs[-1] + a * v
        if not keep:
            xs, vs = [], []
        xs.append(x)
        vs.append(v)
    return xs, vs


def hyper_exact(p, x0, alphas, gammas, m, groups=None):
    """Reverse mode through the stored float64 trajectory (the true derivative)."""
    xs, vs = train(p, x0, alphas, gammas, m, groups)
    loss, d_x, direct = p.outer(xs[-1], m)
    d_v, d_m = np.zeros_like(x0), np.zeros_like(m)
    d_alphas, d_gammas = np.zeros_like(alphas), np.zeros_like(gammas)
    for i in range(len(alphas) - 1, -1, -1):
        a = as_vector(groups, alphas[i], x0.size)
        c = as_vector(groups, gammas[i], x0.size)
        d_alphas[i] = per_group(groups, d_x, vs[i + 1])
        d_v = d_v + a * d_x
        g, h_x, h_m = p.second(xs[i], m, (1.0 - c) * d_v, i)
        d_gammas[i] = per_group(groups, d_v, vs[i] + g)
        d_x = d_x - h_x
        d_m = d_m - h_m
        d_v = c * d_v
    return dict(x_final=xs[-1], loss=loss, d_x=d_x, d_alphas=d_alphas, d_gammas=d_gammas,
                d_meta_inner=d_m, d_meta=d_m + direct)


class FixedPoint:
    """64-bit fixed point (52 fractional bits) whose multiplication by a ratio
    n/d can be undone: the remainder goes to an unbounded integer per element."""
    ONE = 2.0 ** 52

    def __init__(self, x):
        self.q = self.quantize(x)
        self.spill = [0] * len(self.q)

    @classmethod
    def quantize(cls, x):
        return [int(t) for t in np.asarray(x) * cls.ONE]     # toward zero

    @property
    def value(self):
        return np.array([float(t) for t in self.q]) / self.ONE

    def shift(self, x):
        self.q = [q + t for q, t in zip(self.q, self.quantize(x))]

    @staticmethod
    def ratio(c):
        d = 2 ** 16 // int(c + 1)
        return int(c * d + 1), d          # n/d is always > c, by at most 1/d

    def scale(self, c, inverse=False):
        c = np.broadcast_to(c, (len(self.q),))
        for k in range(len(self.q)):
            n, d = self.ratio(c[k])
            if inverse:
                n, d = d, n
            whole, rest = divmod(self.q[k], d)
            spill = self.spill[k] * d + rest
            self.spill[k], extra = divmod(spill, n)
            self.q[k] = whole * n + extra


def hyper_reversible(p, x0, alphas, gammas, m, groups=None):
    """Exactly reversible learning: nothing stored but the spilled bits.  The
    forward momentum is the ratio n/d, the reverse equations use the nominal one."""
    X, V = FixedPoint(x0), FixedPoint(np.zeros_like(x0))
    start = list(X.q)
    for i in range(len(alphas)):
        a = as_vector(groups, alphas[i], x0.size)
        c = as_vector(groups, gammas[i], x0.size)
        g = p.grad(X.value, m, i)
        V.scale(c)
        V.shift(-((1.0 - c) * g))
        X.shift(a * V.value)
    x_final = X.value
    loss, d_x, direct = p.outer(x_final, m)
    d_v, d_m = np.zeros_like(x0), np.zeros_like(m)
    d_alphas, d_gammas = np.zeros_like(alphas), np.zeros_like(gammas)
    for i in range(len(alphas) - 1, -1, -1):
        a = as_vector(groups, alphas[i], x0.size)
        c = as_vector(groups, gammas[i], x0.size)
        v = V.value
        d_alphas[i] = per_group(groups, d_x, v)
        X.shift(-(a * v))
        d_v = d_v + a * d_x
        g, h_x, h_m = p.second(X.value, m, (1.0 - c) * d_v, i)
        V.shift((1.0 - c) * g)
        V.scale(c, inverse=True)
        d_gammas[i] = per_group(groups, d_v, V.value + g)
        d_x = d_x - h_x
        d_m = d_m - h_m
        d_v = c * d_v
    assert X.q == start and not any(V.q) and not any(V.spill), "not reversed exactly"
    return dict(x_final=x_final, loss=loss, d_x=d_x, d_alphas=d_alphas, d_gammas=d_gammas,
                d_meta_inner=d_m, d_meta=d_m + direct)


def hyper_shortcut(p, x0, alphas, gammas, m, groups=None, x_final=None, n_back=None):
    """DrMAD as the original code computes it: the reverse pass follows the straight
    line from x0 to x_final in n_back points.  Batch i, alphas[i] and gammas[i]
    are those of forward step i < n_back.  At i = 0 the index i - 1 wraps to the
    last point, as in the original, so d_alphas[0] and d_gammas[0] are spurious
    (README); without schedules (n_back < T) only d_meta matters."""
    if x_final is None:
        x_final = train(p, x0, alphas, gammas, m, groups, keep=False)[0][-1]
    n_back = len(alphas) if n_back is None else n_back
    loss, d_x, direct = p.outer(x_final, m)
    d_v, d_m = np.zeros_like(x0), np.zeros_like(m)
    d_alphas, d_gammas = np.zeros_like(alphas), np.zeros_like(gammas)
    line = np.linspace(0.001, 0.999, n_back)
    point = lambda b: (1.0 - b) * x0 + b * x_final
    for i in range(n_back - 1, -1, -1):
        a = as_vector(groups, alphas[i], x0.size)
        c = as_vector(groups, gammas[i], x0.size)
        x = point(line[i])
        v = (x - point(line[i - 1])) / a
        d_alphas[i] = per_group(groups, d_x, v)
        d_v = d_v + a * d_x
        g, h_x, h_m = p.second(x, m, (1.0 - c) * d_v, i)
        d_gammas[i] = per_group(groups, d_v, v + g)
        d_x = d_x - h_x
        d_m = d_m - h_m
        d_v = c * d_v
    return dict(x_final=x_final, loss=loss, d_x=d_x, d_alphas=d_alphas, d_gammas=d_gammas,
                d_meta_inner=d_m, d_meta=d_m + direct)


# ------------------------------------------------------------------ fixture
def inputs(seed=20160105):
    rs = np.random.RandomState(seed)
    net = MLP(SIZES)
    n = N_TRAIN + N_VALID
    centres = rs.randn(SIZES[-1], SIZES[0])
    labels = rs.randint(SIZES[-1], size=n)
    X = 0.7 * centres[labels] + rs.randn(n, SIZES[0])
    X = X - X[:N_TRAIN].mean(axis=0)
    Y = np.eye(SIZES[-1])[labels]
    k = len(net.blocks)
    d = dict(
        X_train=X[:N_TRAIN], Y_train=Y[:N_TRAIN], X_valid=X[N_TRAIN:], Y_valid=Y[N_TRAIN:],
        batches=np.stack([rs.randint(N_TRAIN, size=BATCH) for _ in range(T)]),
        x0=0.3 * rs.randn(net.size),
        meta_scaled=0.2 + 0.3 * rs.randn(net.size),
        meta_penalty=-4.0 + 0.5 * rs.randn(net.size),
        alphas=0.1 + 0.3 * rs.rand(T),
        gammas=0.3 + 0.65 * rs.rand(T),
        alphas_groups=0.1 + 0.3 * rs.rand(T, k),
        gammas_groups=0.3 + 0.65 * rs.rand(T, k),
        alpha_const=np.array(0.2), gamma_const=np.array(0.9),
        sizes=np.array(SIZES), log_l2_scaled=np.array(LOG_L2),
        group_start=np.array([s.start for _, s, _ in net.blocks]),
        group_stop=np.array([s.stop for _, s, _ in net.blocks]),
    )
    return d


def cases(d):
    """Yields (problem name, problem, meta, schedule name, alphas, gammas, groups)."""
    net = MLP([int(s) for s in d["sizes"]])
    groups = [slice(int(a), int(b)) for a, b in zip(d["group_start"], d["group_stop"])]
    data = ((d["X_train"], d["Y_train"]), d["batches"], (d["X_valid"], d["Y_valid"]))
    steps = len(d["batches"])
    const = np.full(steps, float(d["alpha_const"])), np.full(steps, float(d["gamma_const"]))
    for name, cls in (("scaled", Scaled), ("penalty", Penalty)):
        p = cls(net, *data)
        m = d["meta_" + name]
        yield name, p, m, "const", *const, None
        yield name, p, m, "steps", d["alphas"], d["gammas"], None
        yield name, p, m, "groups", d["alphas_groups"], d["gammas_groups"], groups


def outputs(d):
    out = {}
    for name, p, m, sched, al, ga, groups in cases(d):
        args = (p, d["x0"], al, ga, m, groups)
        rev = hyper_reversible(*args)
        results = {
            "exact": hyper_exact(*args),
            "reversible": rev,
            "mad": hyper_shortcut(*args),
            "mad_fixedpoint": hyper_shortcut(*args, x_final=rev["x_final"]),
        }
        if sched == "const":
            results["mad_tenth"] = hyper_shortcut(*args, n_back=len(al) // 10)
        for how, r in results.items():
            for key, value in r.items():
                if how == "mad_tenth" and key in ("d_alphas", "d_gammas"):
                    continue
                out[f"{name}/{sched}/{how}/{key}"] = np.asarray(value)
    return out


def finite_differences(d, eps=1e-5, seed=1):
    """Largest error of the exact hypergradient against central differences,
    relative to the largest component, on random coordinates of every kind."""
    rs = np.random.RandomState(seed)
    worst = {}
    for name, p, m, sched, al, ga, groups in cases(d):
        exact = hyper_exact(p, d["x0"], al, ga, m, groups)

        def loss(x0=d["x0"], al=al, ga=ga, m=m):
            return p.outer(train(p, x0, al, ga, m, groups, keep=False)[0][-1], m)[0]

        for arg, base, key in (("x0", d["x0"], "d_x"), ("m", m, "d_meta"),
                               ("al", al, "d_alphas"), ("ga", ga, "d_gammas")):
            flat = exact[key].ravel()
            scale = np.abs(flat).max()
            for k in rs.choice(flat.size, size=min(12, flat.size), replace=False):
                step = np.zeros(flat.size)
                step[k] = eps
                step = step.reshape(np.shape(base))
                num = (loss(**{arg: base + step}) - loss(**{arg: base - step})) / (2 * eps)
                where = f"{name}/{sched}/{key}"
                worst[where] = max(worst.get(where, 0.0), abs(num - flat[k]) / scale)
    return worst


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--check", action="store_true")
    ap.add_argument("--file", default=str(HERE / "fixture.npz"))
    args = ap.parse_args()
    path = pathlib.Path(args.file)
    if not args.check:
        d, kept = inputs(), {}
        if path.exists():                       # orig/ arrays cannot be made here
            with np.load(path) as z:
                kept = {k: z[k] for k in z.files if k.startswith("orig/")}
        np.savez_compressed(path, **{"in/" + k: v for k, v in d.items()},
                            **{"out/" + k: v for k, v in outputs(d).items()}, **kept)
        print("wrote", path.name, path.stat().st_size, "bytes")
        return
    with np.load(path) as z:
        orig = {k[5:]: z[k] for k in z.files if k.startswith("orig/")}
        d = {k[3:]: z[k] for k in z.files if k.startswith("in/")}
        saved = {k[4:]: z[k] for k in z.files if k.startswith("out/")}
    again = outputs(d)
    assert saved.keys() == again.keys()
    rel = lambda a, b: np.abs(a - b).max() / np.abs(b).max()
    worst = max(rel(again[k], saved[k]) for k in saved)
    print("recomputed, largest relative difference: %.1e" % worst)
    assert worst < 1e-9
    if orig:
        for how, tol in (("mad_tenth", 1e-13), ("reversible", 1e-9), ("mad_fixedpoint", 1e-9)):
            worst = max(rel(saved[k], v) for k, v in orig.items() if k.split("/")[2] == how)
            print("against the original code, %-14s %.1e" % (how, worst))
            assert worst < tol
    for k, e in finite_differences(d).items():
        print("finite differences %-26s %.1e" % (k, e))
        assert e < 1e-6


if __name__ == "__main__":
    main()
