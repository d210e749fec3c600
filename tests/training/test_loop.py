"""The loop alone, on a recipe of ten lines: resuming, stopping, divergence, accumulation, rates, selection."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning_fabric import Fabric
from torch import Tensor, nn

from metrixkit.errors import InputError
from metrixkit.seam import Batch, EpochPlan, Group, Method, Needs, Output
from metrixkit.training import checkpoint, loop
from metrixkit.training.checkpoint import Progress
from metrixkit.training.divergence import Diverged
from metrixkit.training.log import RunLog
from metrixkit.training.loop import Trainer
from metrixkit.training.optim import Rates, adam, parameter_dicts
from metrixkit.training.running_statistics import average_running_statistics
from metrixkit.training.schedule import Constant
from metrixkit.training.settings import TrainingSettings
from metrixkit.training.signals import Stopped

STEPS = 5


LOGS: list[RunLog] = []


@pytest.fixture(autouse=True)
def _close_logs() -> Iterator[None]:
    yield
    while LOGS:
        LOGS.pop().close()


class Toy(nn.Module):
    """Fits noise with dropout, so that the generator's state matters."""

    def __init__(self, coupled: bool = True) -> None:
        super().__init__()
        self.trunk, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.coupled, self.poison, self.seen = coupled, -1, 0

    def needs(self) -> Needs:
        return Needs(batch_coupled=self.coupled)

    def forward(self, batch: Batch) -> Output:
        x = batch.modalities["x"]
        loss = self.head(self.drop(self.norm(self.trunk(x)))).square().mean()
        if self.seen == self.poison:
            loss = loss * float("nan")
        self.seen += 1
        return Output({"total": loss}, lambda: {"own/number": 1.0})

    def encoders(self) -> dict[str, nn.Module]:
        return {"image": self.trunk}

    def parameter_groups(self) -> list[Group]:
        return [
            Group("backbone", [*self.trunk.parameters(), *self.norm.parameters()]),
            Group("head", list(self.head.parameters()), lr_scale=10, warm=True),
        ]

    def before_epoch(self, epoch: int, embed: object) -> EpochPlan:
        return EpochPlan()

    def after_step(self, step: int) -> None:
        pass


class Order:
    """A sampler whose batch k of epoch e is a fixed function of both."""

    def __init__(self) -> None:
        self.epoch = self.position = 0

    def __len__(self) -> int:
        return STEPS

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        for k in range(self.position, STEPS):
            x = torch.randn(6, 4, generator=torch.Generator().manual_seed(100 * self.epoch + k))
            yield Batch(ids=[f"{self.epoch}/{k}/{i}" for i in range(6)], modalities={"x": x})


def trainer(
    folder: Path, scores: list[float] | None = None, coupled: bool = True, keep: int = 0, **settings: object
) -> tuple[Trainer, Toy]:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    method, order = Toy(coupled), Order()
    options = TrainingSettings(**{"epochs": 3, "tensorboard": False, "log_every": 1, **settings})  # type: ignore[arg-type]
    groups = method.parameter_groups()
    optimizer = adam(parameter_dicts(groups, list(method.parameters())), lr=0.01)
    rates = Rates(optimizer, groups, Constant(), options.epochs, options.warmup_epochs)
    wrapped, optimizer = fabric.setup(method, optimizer)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    queue = list(scores or [0.1, 0.3, 0.2])
    made = Trainer(
        method=method, wrapped=wrapped, optimizer=optimizer, rates=rates, loader=order, sampler=order, fabric=fabric,
        settings=options, checkpoints=folder / "checkpoints", log=RunLog(folder, True, options.tensorboard, keep),
        evaluate=lambda epoch: {"validation/recall@1": queue.pop(0)}, select_by="validation/recall@1", evaluate_every=1,
        embed=lambda: torch.zeros(1),
    )  # fmt: skip
    LOGS.append(made.log)
    return made, method


def weights(method: nn.Module) -> list[Tensor]:
    return [t.clone() for t in method.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_toy_fulfils_the_seam() -> None:
    assert isinstance(Toy(), Method)


@pytest.mark.sample(8)
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("killed_at", [1, 4, 5, 6, 7, 11, 14])
def test_resumed_equals_uninterrupted(tmp_path: Path, killed_at: int, accumulate: int) -> None:
    more: dict[str, Any] = {"accumulate": accumulate, "accumulate_coupled": True}
    whole, method = trainer(tmp_path / "whole", **more)
    whole.run(Progress())
    whole.log.close()

    class Killed(Exception):
        pass

    first, _ = trainer(tmp_path / "cut", checkpoint_every=2, **more)
    genuine = first.step

    def dies(batch: Batch, progress: Progress, steps: int) -> float:
        if progress.step == killed_at:
            raise Killed
        return genuine(batch, progress, steps)

    first.step = dies  # type: ignore[method-assign]
    with pytest.raises(Killed):
        first.run(Progress())
    first.log.close()
    last = tmp_path / "cut/checkpoints/last.pt"
    keep = torch.load(last, weights_only=True)["progress"]["log_size"]
    second, resumed = trainer(tmp_path / "cut", checkpoint_every=2, keep=keep, **more)
    torch.manual_seed(99)  # a resumed process starts with another generator state
    progress = checkpoint.load(last, resumed, second.optimizer, torch.device("cpu"))
    assert progress.step <= killed_at
    second.evaluate = lambda epoch: {"validation/recall@1": [0.1, 0.3, 0.2][len(progress.history)]}
    second.run(progress)
    second.log.close()
    assert equal(weights(method), weights(resumed))
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("epochs", -1, "at least 0"),
        ("log_every", 0, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("clip_norm", 0.0, "above 0"),
        ("devices", "two", "or auto"),
        ("devices", 0, "or auto"),
        ("devices", -1, "or auto"),
    ],
)
def test_numbers_that_no_loop_can_take(name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=rf"training\.{name}={value}.*{words}"):
        TrainingSettings(**{name: value})


def averaged(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    module = nn.ModuleDict({"live": nn.BatchNorm1d(3), "frozen": nn.BatchNorm1d(3).eval()})
    for norm in module.values():
        norm.running_mean.copy_(torch.randn(3))  # type: ignore[union-attr, operator]
    module["queue"] = nn.Module()
    module["queue"].register_buffer("rows", torch.randn(2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    average_running_statistics(module)
    torch.save((before, module.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.ddp
@pytest.mark.slow
def test_processes_are_judged_as_one_network(tmp_path: Path) -> None:
    mp.spawn(averaged, args=(str(tmp_path),), nprocs=2)
    (own, after), (other, again) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    live = "live.running_mean"
    assert torch.equal(after[live], again[live])
    torch.testing.assert_close(after[live], (own[live] + other[live]) / 2)
    for before, now in ((own, after), (other, again)):
        assert all(torch.equal(now[name], before[name]) for name in before if not name.startswith("live."))


def test_every_checkpoint_holds_what_all_processes_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one within an epoch: the statistics of the first process alone would be resumed by all."""
    done: list[str] = []
    monkeypatch.setattr(loop, "average_running_statistics", lambda module: done.append("averaged"))
    monkeypatch.setattr(checkpoint, "save", lambda *given, **named: done.append("saved"))
    made, _ = trainer(tmp_path, checkpoint_every=2, epochs=2)
    made.run(Progress())
    # Before the first step; after steps 2 and 4 and the epoch; after steps 6, 8, 10 and the epoch.
    assert "".join(word[0] for word in done).startswith("s" + "as" * 3)
    assert done.count("saved") > 6
    assert all(before == "averaged" for before, word in itertools.pairwise(done) if word == "saved")


def test_different_seeds_differ(tmp_path: Path) -> None:
    """The comparison above can fail: another generator state gives other weights."""
    a, first = trainer(tmp_path / "a")
    b, second = trainer(tmp_path / "b")
    torch.manual_seed(1)
    a.run(Progress())
    torch.manual_seed(2)
    b.run(Progress())
    assert not equal(weights(first), weights(second))


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path)
    progress = made.run(Progress())
    assert (progress.best, progress.best_epoch, progress.step) == (0.3, 2, 3 * STEPS)
    best = torch.load(tmp_path / "checkpoints/best.pt", weights_only=True)
    last = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["method"]
    assert any(not torch.equal(best[k], last[k]) for k in best)


def test_of_equal_epochs_the_earlier_is_the_best(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path, scores=[0.3, 0.3, 0.3])
    genuine, kept = made.evaluate, []

    def looks(epoch: int) -> dict[str, float]:
        kept.append(weights(made.raw))
        return genuine(epoch)

    made.evaluate = looks
    assert made.run(Progress()).best_epoch == 1
    best = list(torch.load(tmp_path / "checkpoints/best.pt", weights_only=True).values())
    assert equal(best, kept[0])
    assert not equal(best, kept[1])


@pytest.mark.parametrize(("accumulate", "expected"), [(1, [*range(2 * STEPS)]), (2, [1, 3, 4, 6, 8, 9])])
def test_a_method_hears_of_each_update_once_after_it(tmp_path: Path, accumulate: int, expected: list[int]) -> None:
    """By the number of the batch that completed it, from 0, on across epochs."""
    made, method = trainer(tmp_path, epochs=2, accumulate=accumulate, accumulate_coupled=True)
    told: list[int] = []
    before = [method.head.weight.detach().clone()]

    def heard(step: int) -> None:
        told.append(step)
        assert not torch.equal(before[-1], method.head.weight), "called before the update"
        assert method.head.weight.grad is None
        before.append(method.head.weight.detach().clone())

    method.after_step = heard  # type: ignore[method-assign]
    made.run(Progress())
    assert told == expected


def test_nan_names_step_ids_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    made, method = trainer(tmp_path, checkpoint_every=1)
    method.poison = 7
    with pytest.raises(Diverged) as caught:
        made.run(Progress())
    for word in ("nan", "step 7", "epoch 2", "total nan", "head 0.1", "1/2/0", "last.pt", "optimizer.lr"):
        assert word in str(caught.value)
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == 7
    assert all(torch.isfinite(t).all() for t in state["method"].values())


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}, {"checkpoint_every": 1}], ids=str)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("at", [7, 2 * STEPS - 1])  # within an epoch, and before its evaluation
def test_a_gradient_that_is_not_finite_names_its_own_step(
    tmp_path: Path, at: int, value: float, options: dict[str, Any]
) -> None:
    """The loss stays finite: the gradient is spoilt on its way to a bias that only its own step would tell."""
    made, method = trainer(tmp_path, **options)
    made.evaluate = lambda epoch: pytest.fail("evaluated") if epoch == 2 else {"validation/recall@1": 0.1}
    method.head.bias.register_hook(lambda g: g * value if method.seen == at + 1 else g)
    with pytest.raises(Diverged, match=r"norm of the gradient is (inf|nan) at step") as caught:
        made.run(Progress())
    k = at % STEPS
    for word in (f"step {at} ", "epoch 2", f"1/{k}/0", "Losses: total 0.", "head 0.1", "last.pt", "optimizer.lr"):
        assert word in str(caught.value)
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == (at if "checkpoint_every" in options else STEPS)
    assert all(torch.isfinite(t).all() for t in state["method"].values())


def test_the_norm_is_that_of_all_gradients_before_they_are_clipped(tmp_path: Path) -> None:
    norms = []
    for option in ({}, {"clip_norm": 1e-3}, {"clip_value": 1e-3}):
        made, _ = trainer(tmp_path / str(len(norms)), epochs=1, **option)
        made.run(Progress())
        made.log.close()
        first = (tmp_path / str(len(norms)) / "metrics.jsonl").read_text().splitlines()[0]
        norms.append(json.loads(first)["gradient_norm"])
    torch.manual_seed(0)
    fresh = Toy()
    fresh(next(iter(Order()))).losses["total"].backward()
    expected = torch.cat([p.grad.flatten() for p in fresh.parameters() if p.grad is not None]).norm().item()
    assert norms == pytest.approx([expected] * 3, rel=1e-5)


def test_weights_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path: Path) -> None:
    made, method = trainer(tmp_path)
    made.save(Progress())
    with torch.no_grad():
        method.head.weight.fill_(float("inf"))
    with pytest.raises(InputError, match=r"head.weight is not finite"):
        made.save(Progress(step=3))
    assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["progress"]["step"] == 0


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("ignored", [[], [signal.SIGINT, signal.SIGHUP], [signal.SIGTERM]])
def test_sigterm_saves_and_exits(tmp_path: Path, ignored: list[signal.Signals]) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    made, _ = trainer(tmp_path)
    genuine = made.step

    def asks(batch: Batch, progress: Progress, steps: int) -> float:
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return genuine(batch, progress, steps)

    made.step = asks  # type: ignore[method-assign]
    with pytest.raises(Stopped) as caught:
        made.run(Progress())
    assert caught.value.code == 143
    saved = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["progress"]
    assert (saved["step"], saved["epoch"], saved["position"]) == (7, 1, 2)


def test_accumulation_is_refused_for_coupled_losses_unless_asked(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path / "a", accumulate=2)
    with pytest.raises(InputError, match=r"accumulate=2.*accumulate_coupled=true"):
        made.run(Progress())
    for folder, options in (("b", {"accumulate_coupled": True}), ("c", {"coupled": False})):
        made, _ = trainer(tmp_path / folder, accumulate=2, epochs=1, **options)
        assert made.run(Progress()).step == STEPS


def test_accumulated_gradient_is_the_mean_over_the_micro_batches(tmp_path: Path) -> None:
    made, method = trainer(tmp_path, accumulate=STEPS, accumulate_coupled=True, epochs=1)
    method.drop.p, method.norm.training = 0.0, False
    gradients = []
    made.clip = lambda: gradients.append(method.head.weight.grad.clone())  # type: ignore[method-assign, assignment, union-attr]
    fresh = Toy()
    fresh.load_state_dict(method.state_dict())
    fresh.drop.p = 0.0
    fresh.train()
    torch.stack([fresh(b).losses["total"] for b in Order()]).mean().backward()
    made.run(Progress())
    assert torch.allclose(gradients[0], fresh.head.weight.grad, atol=1e-7)


def test_warm_up_moves_only_the_warm_groups(tmp_path: Path) -> None:
    made, method = trainer(tmp_path, epochs=2, warmup_epochs=1)
    trunk, head = method.trunk.weight.clone(), method.head.weight.clone()
    progress = Progress()
    from metrixkit.training.signals import StopSignal

    made.epoch(progress, StopSignal())
    assert torch.equal(trunk, method.trunk.weight)
    assert not torch.equal(head, method.head.weight)
    made.epoch(progress, StopSignal())
    assert not torch.equal(trunk, method.trunk.weight)


def test_an_epoch_tells_the_mean_loss_of_its_own_steps(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path, epochs=2)
    made.run(Progress())
    made.log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/total"] for line in lines if "loss/total" in line]
    assert len(losses) == 2 * STEPS
    told = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("epoch")]
    for line, own in zip(told, (losses[:STEPS], losses[STEPS:]), strict=True):
        assert f"loss {sum(own) / STEPS:.4f}" in line


def test_rates_are_logged_with_their_scale(tmp_path: Path) -> None:
    made, _ = trainer(tmp_path, epochs=1)
    made.run(Progress())
    made.log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["lr/backbone"] == pytest.approx(0.01)
    assert lines[0]["lr/head"] == pytest.approx(0.1)
    assert lines[0]["own/number"] == 1.0
    assert lines[-1]["validation/recall@1"] == 0.1


@pytest.mark.parametrize(("option", "value"), [("clip_norm", 1e-6), ("clip_value", 1e-8)])
def test_clipping_limits_the_gradient(tmp_path: Path, option: str, value: float) -> None:
    made, method = trainer(tmp_path, epochs=1, **{option: value})
    genuine, seen = made.clip, []

    def looks() -> float | None:
        norm = genuine()
        seen.append(max(float(p.grad.abs().max()) for p in method.parameters() if p.grad is not None))
        return norm

    made.clip = looks  # type: ignore[method-assign]
    made.run(Progress())
    assert max(seen) <= value * 1.001


def test_parameters_must_stand_in_exactly_one_group() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(InputError, match="exactly one group"):
        parameter_dicts([Group("a", [layer.weight])], list(layer.parameters()))
    with pytest.raises(InputError, match="exactly one group"):
        parameter_dicts([Group("a", list(layer.parameters())), Group("b", [layer.bias])], list(layer.parameters()))
    with pytest.raises(InputError, match="nothing is trainable"):
        parameter_dicts([], [])
