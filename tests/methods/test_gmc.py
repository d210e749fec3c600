"""GMC and plain fusion, with DMM on both: against the release's numbers, and what must not matter."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from metrixkit.errors import InputError
from metrixkit.losses import AbsoluteError, DynamicMixedMargin, MultiSimilarity, NTXent, Ramp, nt_xent
from metrixkit.methods.gmc import GMC, Fusion, gmc_terms
from metrixkit.methods.modality_batch import Dropping, Inputs, MixedInputs
from metrixkit.mixing import mix_inputs
from metrixkit.models.modality_trunks import ModalityInput, SequenceTrunk
from metrixkit.models.multimodal import Multimodal, MultimodalInputs, load_multimodal
from metrixkit.seam import Batch

FIXTURES = json.loads((Path(__file__).parents[1] / "fixtures" / "dmm.json").read_text(encoding="utf-8"))
FORMS = {"image": ModalityInput("image", 3), "path": ModalityInput("features", 2), "name": ModalityInput("text", 0)}


def model(seed=0, outputs=0, **settings):
    torch.manual_seed(seed)
    return Multimodal(MultimodalInputs(FORMS, outputs), dim=6, width=8, **settings)


def batch(count=6, mask=None, seed=0, labels=None):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=g)
    steps = torch.arange(9)[None] < lengths[:, None]
    return Batch(
        ids=[str(i) for i in range(count)],
        labels=torch.arange(count) // 2 if labels is None else labels,
        modalities={
            "image": torch.randint(0, 256, (count, 3, 12, 12), generator=g, dtype=torch.uint8),
            "path": torch.randn(count, 9, 2, generator=g) * steps[:, :, None],
            "path_mask": steps,
            "name": torch.randint(1, 257, (count, 9), generator=g) * steps,
            "name_mask": steps,
        },
        mask=mask,
    )


class Recorded(torch.nn.Module):
    """Answers the fixture's embeddings: clean ones for clean inputs, mixed ones for anything else."""

    names = ("0", "1", "2")

    def __init__(self, clean, mixed):
        super().__init__()
        self.clean, self.mixed = clean, mixed

    def part(self, name, x, mask=None):
        reps = self.clean if bool((x == x.round()).all()) else self.mixed
        return reps[int(name)]


def test_the_release_of_gmc_and_dmm():
    entry = FIXTURES["gmc_supervised_dmm"]
    inputs, outputs = entry["inputs"], entry["outputs"]
    reps, mixed, pred, target = (
        torch.tensor(inputs[key], dtype=torch.float64) for key in ("reps", "mixed", "pred", "target")
    )
    dmm = MixedInputs().around(inputs["tau"], seed=0).double()
    dmm.set_epoch(inputs["ep"] - 1)  # the release counts from 1
    dmm.draw = lambda count: (inputs["lam"], torch.arange(count - 1, -1, -1))
    whole = torch.arange(4.0)[:, None].repeat(1, 2)
    given = Inputs({name: whole for name in Recorded.names}, {}, torch.ones(4, 3, dtype=torch.bool))
    contrast, hinge = gmc_terms(Recorded(reps[:3], mixed), NTXent(inputs["tau"]), dmm, given, reps[3])
    l1 = AbsoluteError()(pred[:, 0], target[:, 0])
    assert abs(contrast - outputs["nce_mean"]) < 1e-8
    assert abs(l1 - outputs["l1"]) < 1e-8
    assert abs(hinge - sum(outputs["hinge_per_modality"]) / 3) < 1e-8
    assert abs(contrast + l1 + dmm.current_weight * hinge - outputs["official_gmc_plus_dmm"]) < 1e-8
    assert abs(dmm.current_weight - 5 / 17) < 1e-12


def test_the_loss_is_the_sum_of_its_terms():
    method = GMC(model(), MultiSimilarity(), weight=0.5, dmm=MixedInputs(weight=2.0, ramp=None))
    given = batch()
    method.dmm.generator.manual_seed(3)
    output = method(given)
    method.dmm.generator.manual_seed(3)
    lam, partner = method.dmm.draw(6)
    x = method.model.prepare(given.modalities)
    masks = {name: given.modalities.get(f"{name}_mask") for name in FORMS}
    joint = method.model.joint(x, given.modalities, torch.ones(6, 3, dtype=torch.bool))
    contrast, hinge = 0.0, 0.0
    for name in FORMS:
        part = method.model.part(name, x[name], masks[name])
        z = F.normalize(torch.cat([part, joint]), dim=1)
        logits = (z @ z.T / 0.3).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
        contrast += F.cross_entropy(logits, torch.arange(12).roll(6))
        mixed = method.model.part(name, mix_inputs(x[name], lam, partner), masks[name])
        s = mixed @ joint.T
        least = s.diagonal() - 0.2 * lam
        gaps = (s - least[:, None]).clamp(min=0) + (s - least[None]).clamp(min=0)
        hinge += gaps.fill_diagonal_(0).sum() / 36 / 3
    expected = MultiSimilarity()(joint, given.labels) + 0.5 * contrast + 2.0 * hinge
    assert torch.allclose(output.losses["total"], expected, atol=1e-6)
    assert set(output.logs()) == {"loss/task", "loss/contrast", "loss/mixed"}


def test_fusion_is_its_joint_branch():
    plain = Fusion(model(branches=False), MultiSimilarity())
    given = batch()
    joint = plain.model.joint(plain.model.prepare(given.modalities), given.modalities, torch.ones(6, 3).bool())
    assert torch.allclose(plain(given).losses["total"], MultiSimilarity()(joint, given.labels))
    assert not plain.model.alone
    with pytest.raises(InputError, match="model was built with branches=false|was built with branches=false"):
        plain.model.part("image", torch.zeros(1, 3, 12, 12))
    with pytest.raises(InputError, match=r"leave model\.branches at true"):
        GMC(model(branches=False), MultiSimilarity())
    mixed = Fusion(model(branches=False), MultiSimilarity(), dmm=MixedInputs())
    mixed.before_epoch(0, lambda: torch.zeros(1))
    assert mixed(given).losses["total"] > plain(given).losses["total"]


def test_the_ramp_of_the_release():
    assert [MixedInputs().ramp(epoch) for epoch in (0, 4)] == [1 / 13, 5 / 17]
    for one_based, share in FIXTURES["ramp"]["outputs"]["gmc"]:
        assert abs(MixedInputs().ramp(int(one_based) - 1) - share) < 1e-9
    late = GMC(model(), MultiSimilarity(), dmm=MixedInputs(ramp=Ramp(30, 0)))
    assert late.before_epoch(0, lambda: torch.zeros(1)).logs == {"mixed_weight": 0.0}
    assert "loss/mixed" not in late(batch()).logs()


def test_what_is_missing_has_no_part_in_the_loss():
    mask = torch.ones(6, 3, dtype=torch.bool)
    mask[:3, 1] = mask[4:, 0] = mask[:, 2] = False
    method = GMC(model(), MultiSimilarity(), dmm=MixedInputs(ramp=None))
    poisoned = batch(mask=mask)
    first = method(poisoned).losses["total"]
    first.backward()
    for name, rows in (("image", slice(4, 6)), ("path", slice(0, 3))):
        poisoned.modalities[name][rows] = 77
    poisoned.modalities["name"][:] = 5
    method.dmm.generator.manual_seed(0)
    assert torch.equal(method(poisoned).losses["total"], first)
    del poisoned.modalities["name"], poisoned.modalities["name_mask"]  # as a batch without any of it comes
    method.dmm.generator.manual_seed(0)
    assert torch.equal(method(poisoned).losses["total"], first)
    assert not any(p.grad is not None and p.grad.any() for p in method.model.alone["name"].parameters())
    x = method.model.prepare(poisoned.modalities)
    joint = method.model.joint(x, poisoned.modalities, mask)
    sides = [("image", torch.arange(4)), ("path", torch.arange(3, 6))]  # each pair is of one item
    expected = sum(
        nt_xent(
            method.model.part(n, x[n][r], None if n == "image" else poisoned.modalities["path_mask"][r]), joint[r], 0.3
        )
        for n, r in sides
    )
    assert method(poisoned).logs()["loss/contrast"] == pytest.approx(expected.item(), rel=1e-5)
    mask[2] = False
    with pytest.raises(InputError, match="of the item '2' no modality is there"):
        method(poisoned)


def test_dropping_in_training_keeps_one_and_resumes():
    present = torch.ones(4000, 3, dtype=torch.bool)
    present[:, 2] = False
    dropping = Dropping(0.5, seed=1)
    kept = dropping(present)
    assert kept.any(dim=1).all()
    assert not kept[:, 2].any()
    assert abs(kept[:, 0].float().mean() - (0.5 + 0.125)) < 0.03
    method = GMC(model(), MultiSimilarity(), dmm=MixedInputs(), drop=0.5)
    method(batch())
    state = method.state_dict()
    after = method(batch()).losses["total"]
    again = GMC(model(), MultiSimilarity(), dmm=MixedInputs(), drop=0.5)
    again.load_state_dict(state)
    assert torch.equal(again(batch()).losses["total"], after)
    assert not torch.equal(again(batch()).losses["total"], after)
    method.eval()
    method.dmm = None
    whole = GMC(method.model, method.loss)
    assert torch.equal(method.eval()(batch()).losses["total"], whole(batch()).losses["total"])  # not in evaluation
    with pytest.raises(InputError, match="expected a probability"):
        Dropping(1.0, 0)


def test_regression_predicts_from_the_joint_branch():
    method = GMC(model(outputs=1), AbsoluteError())
    values = torch.linspace(-3, 3, 6)
    given = batch(labels=values)
    x = method.model.prepare(given.modalities)
    z = method.model.joint(x, given.modalities, torch.ones(6, 3).bool())
    deep = z + method.model.refine(z)
    told = method.model.answer(deep)[:, 0]
    method.weight = 0.0
    assert torch.allclose(method(given).losses["total"], (told - values).abs().mean())
    with pytest.raises(InputError, match="expected the same"):
        AbsoluteError()(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(InputError, match="predicts no numbers"):
        model().predict(torch.zeros(1, 6))


@pytest.mark.parametrize("how", ["conv", "gru"])
def test_padding_does_not_change_an_embedding(how):
    torch.manual_seed(0)
    trunk = SequenceTrunk(2, 8, how).eval()
    x = torch.randn(3, 7, 2)
    padded = torch.cat([x, torch.full((3, 5, 2), 9.0)], dim=1)
    mask = torch.arange(12)[None].expand(3, -1) < 7
    with torch.no_grad():
        assert torch.allclose(trunk(padded, mask), trunk(x, mask[:, :7]), atol=1e-6)
    with pytest.raises(InputError, match="'conv' or 'gru'"):
        SequenceTrunk(2, 8, "lstm")


def test_a_model_is_the_same_from_its_folder(tmp_path):
    trained = model(outputs=1, sequence="gru").eval()
    trained.save(tmp_path / "run" / "model")
    again = load_multimodal(tmp_path / "run")
    x, present = batch().modalities, torch.ones(6, 3, dtype=torch.bool)
    found = [m.joint(m.prepare(x), x, present) for m in (trained, again)]
    assert torch.equal(*found)
    assert again.names == ("image", "path", "name")
    (tmp_path / "run" / "model" / "modalities.json").write_text('{"inputs": {}}')
    with pytest.raises(InputError, match="cannot be built again"):
        load_multimodal(tmp_path / "run")
    with pytest.raises(InputError, match="no model of several modalities"):
        load_multimodal(tmp_path)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_trains_every_branch(device):
    method = GMC(model(), MultiSimilarity(), dmm=MixedInputs(ramp=None, ratio_per="row", partner="permutation")).to(
        device
    )
    method(batch().to(device)).losses["total"].backward()
    still = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    groups = [id(p) for group in method.parameter_groups() for p in group.params]
    assert sorted(groups) == sorted(id(p) for p in method.parameters())


@pytest.mark.parametrize("cls", [GMC, Fusion])
def test_a_loss_that_weighs_its_parts_hears_of_the_epoch(cls):
    method = cls(model(), DynamicMixedMargin(MultiSimilarity()))
    method.before_epoch(50, lambda: torch.zeros(0))
    assert method.loss.current_weight > 0.5


def test_features_of_another_length_are_named():
    with pytest.raises(InputError, match="'path': features of 5 numbers, the model was built for 2"):
        model().prepare({"path": torch.zeros(3, 9, 5)})
