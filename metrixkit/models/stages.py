"""Any backbone in two parts: up to a stage, and from there on.

Backbones are other people's code and mostly offer no such cut. It is made where the first module of the next stage is
about to run: the first part stops there and returns what that module was to be given; the second part runs the whole
forward pass with cheap stand-ins for the modules before the cut, and hands that module what it is given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.models.trunk import Trunk


class _Features:
    """Stands for what passes the cut, in place of a shape; the class itself, which copies of a model share."""


class _Reached(Exception):
    def __init__(self, features: Tensor) -> None:
        self.features = features


class Split:
    """A trunk cut after one of its stages; ``rest(features(x))`` is ``trunk(x)``.

    Args:
        trunk: An ``nn.Module`` that is a :class:`~metrixkit.models.trunk.Trunk`.
        stage: The stage after which it is cut, 0 being the stem; not the last one.
        image_size: Side of the images in pixels.
        name: Of the backbone, for messages.

    Raises:
        InputError: No such stage, or the backbone carries more than one tensor across the cut.
    """

    def __init__(self, trunk: nn.Module, stage: int, image_size: int, name: str) -> None:
        self._trunk, self._size = trunk, image_size
        known = cast(Trunk, trunk)
        self._model = known.model
        stages = known.stages()
        if not 0 <= stage < len(stages) - 1:
            raise InputError(
                f"stage {stage}: {name} has the stages 0 (stem) to {len(stages) - 1}; null takes the last features."
            )
        later = {parameter for after in stages[stage + 1 :] for parameter in after}
        self._problem = f"stage {stage}: {name} cannot be cut there ({{}}); take another stage, or null for the last."
        modes = {module: module.training for module in trunk.modules()}
        trunk.eval()
        try:
            with torch.no_grad():
                self._learn(later)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def features(self, images: Tensor) -> Tensor:
        """Return what the stage makes of (B, 3, H, W) normalised images: (B, ...)."""

        def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(_first_tensor(args, kwargs))

        handle = self._cut.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._trunk(images)
        except _Reached as reached:
            return reached.features
        finally:
            handle.remove()
        raise InputError(self._problem.format("its forward pass goes another way in training"))

    def rest(self, features: Tensor) -> Tensor:
        """Return the trunk's last features, given (B, ...) of the stage or mixtures of such."""
        reached = False

        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
            nonlocal reached
            if reached:
                return None
            reached = True
            return _with_first_tensor(args, kwargs, features)

        handle = self._cut.register_forward_pre_hook(replace, with_kwargs=True)
        like = next(self._model.parameters())
        blank = torch.zeros((), dtype=like.dtype, device=features.device)
        images = blank.expand(len(features), 3, self._size, self._size)
        try:
            with self._stand_ins(features, blank, lambda: reached):
                return self._trunk(images)  # type: ignore[no-any-return]
        finally:
            handle.remove()

    def _learn(self, later: set[str]) -> None:
        """Find the module at the cut and what runs before it, from one forward pass, and check the cut by another."""
        like = next(self._model.parameters())
        noise = torch.randn(2, 3, self._size, self._size, generator=torch.Generator().manual_seed(0))
        images = noise.to(like)
        after = []
        for path, module in self._model.named_modules():
            own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
            if own and later.issuperset(own):
                after.append(module)
        self._cut, done = _watch(self._trunk, self._model, images, after)
        # Outermost of what was finished before the cut, with the shape of its answer.
        self._before = {
            path: answer
            for path, answer in done.items()
            if not any(path.startswith(other + ".") for other in done) and _replaceable(answer)
        }
        try:
            features, whole = self.features(images), self._trunk(images)
            order = torch.tensor([1, 0, 1], device=images.device)
            again = self.rest(features[order])
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise InputError(self._problem.format(f"{type(error).__name__}: {error}")) from error
        whole = whole[order]
        scale = float(whole.abs().amax())
        if again.shape != whole.shape or float((again - whole).abs().amax()) > 1e-4 * max(scale, 1e-6):
            raise InputError(self._problem.format("more than one tensor passes it"))

    @contextmanager
    def _stand_ins(self, features: Tensor, blank: Tensor, reached: Callable[[], bool]) -> Iterator[None]:
        """Let the modules before the cut answer at once, until it is reached: the features, or blanks of a shape."""
        changed = []
        try:
            for path, shapes in self._before.items():
                module = self._model.get_submodule(path)
                own = module.__dict__.get("forward")
                module.forward = _answering(module.forward, shapes, features, blank, reached)  # type: ignore[method-assign]
                changed.append((module, own))
            yield
        finally:
            for module, own in changed:
                if own is None:
                    del module.forward
                else:
                    module.forward = own  # type: ignore[method-assign]


def _answering(
    forward: Callable[..., Any], shapes: Any, features: Tensor, blank: Tensor, reached: Callable[[], bool]
) -> Callable[..., Any]:
    def answer(*args: Any, **kwargs: Any) -> Any:
        if reached():
            return forward(*args, **kwargs)
        return features if shapes is _Features else _blanks(shapes, len(features), blank)

    return answer


def _blanks(shapes: Any, count: int, blank: Tensor) -> Any:
    if isinstance(shapes, torch.Size):
        return blank.expand(count, *shapes[1:])  # one number in memory
    if isinstance(shapes, tuple | list):
        return type(shapes)(_blanks(inner, count, blank) for inner in shapes)
    return None


def _watch(
    trunk: nn.Module, model: nn.Module, images: Tensor, after: list[nn.Module]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the first of `after` to run, and the shapes of what the modules finished before it answered, by path."""
    found: list[nn.Module] = []
    answers: dict[str, Any] = {}
    done: dict[str, Any] = {}
    handles = []

    def finished(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, answer: Any) -> None:
            if not found:
                answers[path] = answer

        return hook

    def starts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found:
            found.append(module)
            passes = _first_tensor(args, kwargs)
            # The forward pass may use what passes the cut beside the module at the cut, too.
            done.update({path: _Features if answer is passes else _shapes(answer) for path, answer in answers.items()})

    for path, module in model.named_modules():
        handles.append(module.register_forward_hook(finished(path)))
    handles += [module.register_forward_pre_hook(starts, with_kwargs=True) for module in after]
    try:
        trunk(images)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise InputError("no module of the later stages is ever run")
    return found[0], done


def _shapes(answer: Any) -> Any:
    """Return shapes in place of tensors that hold one row an image; False for what cannot be made again."""
    if isinstance(answer, Tensor):
        return answer.shape if answer.ndim and len(answer) == 2 and answer.is_floating_point() else False
    if type(answer) in (tuple, list):
        return type(answer)(_shapes(inner) for inner in answer)
    return None if answer is None else False


def _replaceable(shapes: Any) -> bool:
    if shapes is _Features or isinstance(shapes, torch.Size):
        return True
    return shapes is None or (isinstance(shapes, tuple | list) and all(_replaceable(inner) for inner in shapes))


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


def _with_first_tensor(
    args: tuple[Any, ...], kwargs: dict[str, Any], features: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:i], features, *args[i + 1 :]), kwargs
    key = next(name for name, value in kwargs.items() if isinstance(value, Tensor))
    return args, {**kwargs, key: features}
