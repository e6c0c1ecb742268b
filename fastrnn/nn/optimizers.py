"""Optimisers and clipping, for anything with parameters by name.

An optimiser works on modules: any objects with a mapping ``parameters`` and a method ``set_parameters``, the recurrent
layers among them. Each step takes, for every module, an object with a mapping ``parameters`` of gradients, as
``backward`` returns it. New values go in through ``set_parameters``.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .module import FloatArray, boolean, describe, float_array, number_in

State = dict[str, Any]
LEAST_SQUARES = 1e-200  # of sums above it, squares that vanish would change no digit


class HasParameters(Protocol):
    """What an optimiser needs of a module."""

    @property
    def parameters(self) -> Mapping[str, Any]: ...

    def set_parameters(self, values: Mapping[str, Any], /) -> object: ...


class HasGradients(Protocol):
    """What an optimiser needs of gradients."""

    @property
    def parameters(self) -> Mapping[str, Any]: ...


class Optimizer(abc.ABC):
    """What `SGD` and `Adam` share: the modules, the checks, and the order of a step.

    Parameters
    ----------
    modules : sequence
        The modules to train, each once.
    learning_rate : float
        At least 0.
    weight_decay : float
        Added to each gradient, times the parameter: an L2 penalty.

    Attributes
    ----------
    learning_rate : float
        Can be set between steps.
    state : dict
        What has been accumulated, by (index of the module, name of the parameter).
    """

    def __init__(self, modules: Sequence[HasParameters], learning_rate: float, weight_decay: float) -> None:
        if not isinstance(modules, Sequence) or isinstance(modules, (str, bytes)):
            raise TypeError(f"modules must be a sequence of layers, as in [layer]; got {describe(modules)}")
        if not modules:
            raise ValueError("modules must have at least one layer; got an empty sequence")
        for index, module in enumerate(modules):
            if not isinstance(getattr(module, "parameters", None), Mapping) or not hasattr(module, "set_parameters"):
                raise TypeError(
                    f"modules[{index}] must have a mapping parameters and set_parameters; got {describe(module)}"
                )
            if any(module is other for other in modules[:index]):
                raise ValueError(f"modules must have each layer once; got modules[{index}] a second time")
        self.modules = tuple(modules)
        self.learning_rate = learning_rate
        self.weight_decay = number_in("weight_decay", weight_decay)
        self.state: dict[tuple[int, str], State] = {}

    @property
    def learning_rate(self) -> float:
        """The step size: at least 0, and free to change between steps."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._learning_rate = number_in("learning_rate", value)

    def step(self, grads: Sequence[HasGradients | None]) -> None:
        """Change every module's parameters once.

        Parameters
        ----------
        grads : sequence
            One object for each module, in the modules' order, whose ``parameters`` maps every name of the module's
            parameters to a gradient of the same shape. None instead of an object, or instead of a gradient, leaves
            that module or parameter, and what is accumulated for it, as it is.

        Raises
        ------
        TypeError, ValueError
            For a wrong number of gradients, an unknown or missing name, a wrong shape, or values that are not real
            numbers. Everything is checked and computed before the first parameter changes.
        """
        changes: list[tuple[HasParameters, dict[str, FloatArray]]] = []
        state: dict[tuple[int, str], State] = {}
        for index, (module, pairs) in enumerate(zip(self.modules, self._pairs(grads), strict=True)):
            values: dict[str, FloatArray] = {}
            for name, (parameter, gradient) in pairs.items():
                decayed = gradient + self.weight_decay * parameter if self.weight_decay else gradient
                values[name], state[index, name] = self._update(parameter, decayed, self.state.get((index, name)))
            changes.append((module, values))
        for module, values in changes:
            if values:
                module.set_parameters(values)
        self.state.update(state)

    def _pairs(self, grads: Sequence[HasGradients | None]) -> list[dict[str, tuple[FloatArray, FloatArray]]]:
        """For each module, its parameters and their gradients by name; all checked."""
        if not isinstance(grads, Sequence) or isinstance(grads, (str, bytes)):
            raise TypeError(f"grads must be a sequence, one for each module; got {describe(grads)}")
        if len(grads) != len(self.modules):
            raise ValueError(f"grads must have one for each of {len(self.modules)} modules; got {len(grads)}")
        result = []
        for index, (module, given) in enumerate(zip(self.modules, grads, strict=True)):
            pairs: dict[str, tuple[FloatArray, FloatArray]] = {}
            if given is not None:
                gradients = _gradients(index, given)
                where = f"grads[{index}].parameters"
                parameters = _present(module)
                if set(gradients) != set(parameters):
                    raise ValueError(f"{where} must have names {_names(parameters)}; got {_names(gradients)}")
                for name, parameter in parameters.items():
                    if gradients[name] is not None:
                        value = float_array(f"modules[{index}].parameters[{name!r}]", parameter)
                        gradient = float_array(f"{where}[{name!r}]", gradients[name], value.dtype, shape=value.shape)
                        pairs[name] = value, gradient
            result.append(pairs)
        return result

    @abc.abstractmethod
    def _update(self, parameter: FloatArray, gradient: FloatArray, state: State | None) -> tuple[FloatArray, State]:
        """The parameter's new value and new state, as new arrays; no state yet is None."""


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum.

    ``v <- momentum * v + g`` and ``p <- p - learning_rate * v``; with ``nesterov``,
    ``p <- p - learning_rate * (g + momentum * v)``.

    Parameters
    ----------
    modules : sequence
        The modules to train, each once.
    learning_rate : float
        At least 0.
    momentum : float
        In [0, 1).
    nesterov : bool
        Look ahead; needs momentum.
    weight_decay : float
        Added to each gradient, times the parameter: an L2 penalty.

    Attributes
    ----------
    learning_rate : float
        Can be set between steps.
    state : dict
        ``{"velocity": ndarray}`` by (index of the module, name of the parameter), with momentum only.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type or out of range.

    Notes
    -----
    The same as ``torch.optim.SGD``. The learning rate stands outside the velocity (in Keras it stands inside), which
    makes a difference only when it changes. Sutskever et al., "On the importance of initialization and momentum in
    deep learning" (2013).

    Examples
    --------
    >>> from fastrnn.nn import Linear, mean_squared_error
    >>> linear = Linear(3, 2)
    >>> optimizer = SGD([linear], learning_rate=0.1, momentum=0.9)
    >>> y, tape = linear.record([[1.0, 2.0, 3.0]])
    >>> loss, dy = mean_squared_error(y, [[0.0, 1.0]])
    >>> optimizer.step([linear.backward(tape, dy)])
    """

    def __init__(
        self,
        modules: Sequence[HasParameters],
        learning_rate: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(modules, learning_rate, weight_decay)
        self.momentum = number_in("momentum", momentum, high=1.0)
        self.nesterov = boolean("nesterov", nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("momentum must be above 0 with nesterov=True; got 0.0")

    def _update(self, parameter: FloatArray, gradient: FloatArray, state: State | None) -> tuple[FloatArray, State]:
        if not self.momentum:
            return parameter - self.learning_rate * gradient, {}
        velocity = gradient.copy() if state is None else self.momentum * state["velocity"] + gradient
        direction = gradient + self.momentum * velocity if self.nesterov else velocity
        return parameter - self.learning_rate * direction, {"velocity": velocity}


class Adam(Optimizer):
    """Adam: steps scaled by running means of the gradient and of its square.

    ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g**2`` and, after ``t`` steps,
    ``p <- p - learning_rate * (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)``.

    Parameters
    ----------
    modules : sequence
        The modules to train, each once.
    learning_rate : float
        At least 0.
    betas : (float, float)
        ``b1`` and ``b2``, each in [0, 1).
    eps : float
        Above 0.
    weight_decay : float
        Added to each gradient, times the parameter: an L2 penalty, not AdamW's decay.

    Attributes
    ----------
    learning_rate : float
        Can be set between steps.
    state : dict
        ``{"step": int, "m": ndarray, "v": ndarray}`` by (index of the module, name of the parameter).

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong type or out of range.

    Notes
    -----
    The same as ``torch.optim.Adam``. Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Examples
    --------
    >>> from fastrnn.nn import Embedding, Linear
    >>> optimizer = Adam([Embedding(10, 4), Linear(4, 2)], learning_rate=1e-3)
    """

    def __init__(
        self,
        modules: Sequence[HasParameters],
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(modules, learning_rate, weight_decay)
        if not isinstance(betas, Sequence):
            raise TypeError(f"betas must be two numbers; got {describe(betas)}")
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers; got {describe(betas)}")
        self.betas = number_in("betas[0]", betas[0], high=1.0), number_in("betas[1]", betas[1], high=1.0)
        self.eps = number_in("eps", eps, open_low=True)

    def _update(self, parameter: FloatArray, gradient: FloatArray, state: State | None) -> tuple[FloatArray, State]:
        if state is None:
            state = {"step": 0, "m": np.zeros_like(parameter), "v": np.zeros_like(parameter)}
        beta1, beta2 = self.betas
        step = state["step"] + 1
        m = gradient - state["m"]  # in place from here on: large parameters spend their time in memory
        m *= 1.0 - beta1
        m += state["m"]
        v = gradient * gradient
        v *= 1.0 - beta2
        v += beta2 * state["v"]
        denominator = np.sqrt(v)
        denominator /= math.sqrt(1.0 - beta2**step)
        denominator += self.eps
        value = m / denominator
        value *= -self.learning_rate / (1.0 - beta1**step)
        value += parameter
        return value, {"step": step, "m": m, "v": v}


def clip_by_global_norm(
    grads: Sequence[HasGradients | None], max_norm: float, *, error_if_nonfinite: bool = True
) -> tuple[list[Any], float]:
    """Scale all gradients of parameters together so that their norm is at most ``max_norm``.

    Parameters
    ----------
    grads : sequence
        Dataclasses with a mapping ``parameters`` of gradients, as ``backward`` returns them; None is passed on.
    max_norm : float
        Above 0. With ``math.inf`` nothing is scaled and the norm is just measured.
    error_if_nonfinite : bool
        What to do when the norm is NaN or infinite, so that no scaling helps: raise (the default), or return the
        gradients unscaled with that norm, for the caller to look at and skip the step.

    Returns
    -------
    clipped : list
        As ``grads``, with new arrays in ``parameters``: scaled by ``max_norm / norm`` if ``norm > max_norm``, equal
        otherwise. All other fields (``x``, ``state``) are passed on as they are.
    norm : float
        Of all gradients before clipping, as one vector; computed in float64 and without overflow.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong type or out of range; ValueError, naming the gradient, if the norm is not finite.

    Notes
    -----
    The scale is exact, as in ``tf.clip_by_global_norm``; ``torch.nn.utils.clip_grad_norm_`` adds 1e-6 to the norm.
    Pascanu et al., "On the difficulty of training recurrent neural networks" (2013).

    Examples
    --------
    >>> from fastrnn.nn import Gradients
    >>> clipped, norm = clip_by_global_norm([Gradients(None, {"weight": [3.0, 4.0]})], 1.0)
    >>> norm, clipped[0].parameters["weight"]
    (5.0, array([0.6, 0.8]))
    """
    if not isinstance(grads, Sequence) or isinstance(grads, (str, bytes)):
        raise TypeError(f"grads must be a sequence of gradients, as in [grads]; got {describe(grads)}")
    max_norm = number_in("max_norm", max_norm, open_low=True, infinite=True)
    error_if_nonfinite = boolean("error_if_nonfinite", error_if_nonfinite)
    arrays: dict[tuple[int, str], FloatArray] = {}
    for index, given in enumerate(grads):
        if given is not None:
            if not dataclasses.is_dataclass(given) or isinstance(given, type):
                raise TypeError(f"grads[{index}] must be a dataclass, as backward returns it; got {describe(given)}")
            for name, gradient in _gradients(index, given).items():
                if gradient is not None:
                    arrays[index, name] = float_array(f"grads[{index}].parameters[{name!r}]", gradient)

    norm = _norm(list(arrays.values()))
    if error_if_nonfinite and not math.isfinite(norm):
        for (index, name), array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"grads[{index}].parameters[{name!r}] must be finite; got NaN or infinity in it")
        raise ValueError(f"grads must have a finite norm; got {norm}")
    scale = max_norm / norm if max_norm < norm < math.inf else 1.0
    clipped: list[Any] = []
    for index, given in enumerate(grads):
        if given is None:
            clipped.append(None)
            continue
        names = given.parameters
        new = {name: arrays[index, name] * scale if (index, name) in arrays else None for name in names}
        clipped.append(dataclasses.replace(given, parameters=new))  # type: ignore[type-var]
    return clipped, norm


def _norm(arrays: list[FloatArray]) -> float:
    """The 2-norm of all numbers together; scaled by the largest where squares would overflow or vanish."""
    with np.errstate(over="ignore"):
        total = _sum_of_squares(arrays)
    if LEAST_SQUARES < total < math.inf:
        return math.sqrt(total)
    peak = float(np.max([np.max(np.abs(array), initial=0.0) for array in arrays], initial=0.0))
    if peak == 0.0 or not math.isfinite(peak):
        return peak
    return peak * math.sqrt(_sum_of_squares([np.divide(array, peak, dtype=np.float64) for array in arrays]))


def _sum_of_squares(arrays: list[FloatArray]) -> float:
    # Not np.dot: BLAS would do a large one on all cores, whatever else runs there.
    return sum(float(np.add.reduce(np.square(array, dtype=np.float64), axis=None)) for array in arrays)


def _present(module: HasParameters) -> Mapping[str, Any]:
    """The parameters, to be read: a mapping that makes its arrays writable can have ``present()`` for that."""
    parameters = module.parameters
    present = getattr(parameters, "present", None)
    return present() if callable(present) else parameters


def _gradients(index: int, given: object) -> Mapping[str, Any]:
    gradients = getattr(given, "parameters", None)
    if not isinstance(gradients, Mapping):
        raise TypeError(f"grads[{index}] must have a mapping parameters, as backward returns it; got {describe(given)}")
    return gradients


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(map(str, mapping)) or "none"
