"""Momentum SGD in fixed point, whose steps can be reversed bit for bit.

[Maclaurin2015] Gradient-based hyperparameter optimization through reversible learning,
1502.03492, section 3 and its appendix: exact multiplication by a fraction.
"""

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.training.optimizers import Factor, MomentumSGD
from drmad_workers.training.run import TrainingRun

DENOMINATOR_BITS = 16
DENOMINATOR = 2**DENOMINATOR_BITS
"""The momentum is rounded to a multiple of 1 / DENOMINATOR."""

WEIGHT_BITS, VELOCITY_BITS = 52, 55
"""Fractional bits. The paper uses 52 for both. A product with the velocity has an error of up to
65536 units in the last place, which the 3 additional bits reduce to 2e-12."""

_LOW_BITS = DENOMINATOR - 1


class FixedPointMomentum(MomentumSGD):
    """Momentum SGD on 64-bit integers, at γ = n / 65536; `state` holds the values as floats.

        v <- v n / 65536        v <- v - δ g_t        w <- w + α v

    with g_t as in MomentumSGD. The first line moves the digits that v loses into an information
    buffer; the other lines add integers. Each line therefore has an exact inverse.

    Attributes:
        integer_weights, integer_velocity: w 2^52 and v 2^55, int64, shape (P,).
        reached: the largest |w| and |v| so far, shape (2,).
    """

    def __init__(self, rule: MomentumSGD, state: Tensor) -> None:
        momentum = rule.momentum.rounded(DENOMINATOR)
        super().__init__(rule.learning_rate, momentum, rule.damped, rule.weight_decay)
        self._buffer = InformationBuffer()
        self.integer_weights = to_fixed(state[0], WEIGHT_BITS)
        self.integer_velocity = torch.zeros_like(self.integer_weights)
        self.reached = state.new_zeros(2)

    def begin(self, state: Tensor) -> None:
        """Reads w_0 from the state, sets v_0 = 0, and writes the rounded values back."""
        self.integer_weights = to_fixed(state[0], WEIGHT_BITS)
        self.integer_velocity.zero_()
        self._write(state)

    def step(self, step: int, state: Tensor, gradient: Tensor) -> None:
        decay = self.momentum.factor(step)
        self._buffer.multiply(self.integer_velocity, numerator(decay))
        self.integer_velocity.sub_(self._gradient_term(step, state[0], gradient))
        self.integer_weights.add_(self._weight_change(step))
        self._write(state)

    def undo_weights(self, step: int, state: Tensor) -> None:
        """Reverses the weights from after `step` to before it."""
        self.integer_weights.sub_(self._weight_change(step))
        self._write(state)

    def undo_velocity(self, step: int, state: Tensor, gradient: Tensor) -> None:
        """Reverses the velocity likewise; `gradient` is taken at the weights before the step."""
        decay = self.momentum.factor(step)
        self.integer_velocity.add_(self._gradient_term(step, state[0], gradient))
        self._buffer.divide(self.integer_velocity, numerator(decay))
        self._write(state)

    def in_floats(self) -> MomentumSGD:
        """The same update rule in floating point."""
        return MomentumSGD(self.learning_rate, self.momentum, self.damped, self.weight_decay)

    def _gradient_term(self, step: int, weights: Tensor, gradient: Tensor) -> Tensor:
        """δ g_t, from the weights and ∇_w L_t before the step."""
        total = self.decayed(step, weights, gradient)
        return to_fixed(self.gain(self.momentum.factor(step)) * total.double(), VELOCITY_BITS)

    def _weight_change(self, step: int) -> Tensor:
        velocity = to_float(self.integer_velocity, VELOCITY_BITS)
        return to_fixed(self.learning_rate.factor(step) * velocity, WEIGHT_BITS)

    def _write(self, state: Tensor) -> None:
        state[0].copy_(to_float(self.integer_weights, WEIGHT_BITS))
        state[1].copy_(to_float(self.integer_velocity, VELOCITY_BITS))
        self.reached = torch.maximum(self.reached, state.abs().amax(dim=1))


class FixedPointTrajectory:
    """Starts the training on the fixed-point grid and checks that its values stay in range.

    After the last step the run continues in floating point, because other methods may start their
    backward pass from the same run.

    Attributes:
        dynamics: the update rule of the run.
    """

    def __init__(self, dynamics: FixedPointMomentum, check_every: int) -> None:
        """`check_every` is the number of steps from one range check to the next."""
        self.dynamics = dynamics
        self.next_step = 0
        self._check_every = check_every
        self._carried: list[Tensor] = []

    def visit(self, step: int, run: TrainingRun) -> None:
        """Raises ProblemError when a weight or a velocity is out of range."""
        carried = run.objective.parameters.carried_flat
        if step < run.steps and len(carried):
            self._carried.append(carried.clone())
        if step == 0:
            self.dynamics.begin(run.optimizer_state)
        weights, velocity = self.dynamics.reached.tolist()
        require_range("weights", weights, WEIGHT_BITS, step)
        require_range("velocity", velocity, VELOCITY_BITS, step)
        if step < run.steps:
            every = 1 if len(carried) else self._check_every
            self.next_step = min(step + every, run.steps)
        else:
            run.dynamics = self.dynamics.in_floats()

    def restore_carried(self, step: int, run: TrainingRun) -> None:
        """Gives the run and the model the carried values before `step`; steps must descend."""
        if self._carried:
            run.objective.parameters.carried_flat.copy_(self._carried[step])
            run.objective.parameters.load_carried()


class InformationBuffer:
    """The digits that q n / 65536 shifts out of q, in as few bits as they carry [Maclaurin2015].

    With one word s per number and q = 65536 q' + r:

        s <- 65536 s + r        s = n s' + e        q <- n q' + e        s <- s'

    s stores the remainder r that the division loses, and supplies the remainder e that the
    multiplication needs. Each product adds log2(65536 / n) bits to s and has an exact inverse. The
    supplied e changes q by less than n units in the last place. Before a word could overflow, all
    words are pushed onto a stack, and new words start at 0.
    """

    def __init__(self) -> None:
        self._words: list[Tensor] = []
        self._products: list[int] = []
        """The number of products that each word on the stack contains."""
        self._largest = 0
        """An upper bound of the words on top of the stack."""

    @property
    def copies(self) -> int:
        """The number of words per number."""
        return len(self._words)

    def multiply(self, numbers: Tensor, numerator: int | Tensor) -> None:
        """Computes q <- q n / 65536 in place.

        Args:
            numbers: q, int64, shape (P,).
            numerator: n, 0 < n < 65536, a scalar or int64 of shape (P,).
        """
        if not self._words or self._largest >> (63 - DENOMINATOR_BITS):
            self._words.append(torch.zeros_like(numbers))
            self._products.append(0)
            self._largest = 0
        word = self._words[-1]
        word.bitwise_left_shift_(DENOMINATOR_BITS).bitwise_or_(numbers.bitwise_and(_LOW_BITS))
        numbers.bitwise_right_shift_(DENOMINATOR_BITS)
        remainder = torch.remainder(word, numerator)
        word.div_(numerator, rounding_mode="trunc")
        numbers.mul_(numerator).add_(remainder)
        self._products[-1] += 1
        least = int(numerator.min()) if isinstance(numerator, Tensor) else numerator
        self._largest = (self._largest * DENOMINATOR + _LOW_BITS) // least

    def divide(self, numbers: Tensor, numerator: int | Tensor) -> None:
        """Reverses the last `multiply`, in place; takes the same arguments."""
        if self._products[-1] == 0:
            self._words.pop()
            self._products.pop()
        word = self._words[-1]
        remainder = torch.remainder(numbers, numerator)
        numbers.sub_(remainder).div_(numerator, rounding_mode="trunc")
        word.mul_(numerator).add_(remainder)
        numbers.bitwise_left_shift_(DENOMINATOR_BITS).bitwise_or_(word.bitwise_and(_LOW_BITS))
        word.bitwise_right_shift_(DENOMINATOR_BITS)
        self._products[-1] -= 1


def to_fixed(values: Tensor, bits: int) -> Tensor:
    """trunc(x 2^bits), int64."""
    return torch.mul(values.double(), 2.0**bits).long()


def to_float(numbers: Tensor, bits: int) -> Tensor:
    """q / 2^bits, rounded to float64."""
    return numbers.double().mul_(2.0**-bits)


def numerator(decay: Factor) -> int | Tensor:
    """n of γ = n / 65536."""
    product = decay * DENOMINATOR
    return product.round().long() if isinstance(product, Tensor) else round(product)


def range_limit(bits: int) -> float:
    """The bound of representable values; a sum of two values beyond it still does not wrap."""
    return 2.0 ** (62 - bits)


def require_range(what: str, reached: float, bits: int, step: int) -> None:
    if not reached < range_limit(bits):
        raise ProblemError(
            f"{what} must stay below {range_limit(bits):.0f} in fixed point, got {reached:.4g} "
            f"before step {step}: lower the learning rate, or use replay",
            "hypergradient.method",
        )
