import os

import pytest

torch = pytest.importorskip("torch")

from medloom.model import checkpoint  # noqa: E402
from medloom.schemas.errors import FormatError  # noqa: E402

CPU = torch.device("cpu")


def trained(steps: int = 3):
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.rand(4, 3)).square().sum().backward()
    optimizer.step()


def save(run, step, model, optimizer, keep=2):
    return checkpoint.save(run, step, model=model, optimizer=optimizer, stream={"t": step}, keep=keep)


def test_a_loaded_checkpoint_goes_on_as_the_saved_one_would_have(tmp_path):
    model, optimizer = trained()
    save(tmp_path, 3, model, optimizer)
    step(model, optimizer)
    other, other_optimizer = trained(steps=0)
    torch.manual_seed(99)
    assert checkpoint.load(checkpoint.newest(tmp_path), model=other, optimizer=other_optimizer, device=CPU) == (
        3,
        {"t": 3},
    )
    step(other, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_only_the_newest_are_kept(tmp_path):
    for number in (0, 5, 10, 15):
        save(tmp_path, number, *trained(0))
    assert checkpoint.steps(tmp_path) == [10, 15]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000010", "00000015"]


def test_a_kill_while_one_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 1, *trained(0))

    def killed(*paths):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2, *trained(0))
    assert checkpoint.steps(tmp_path) == [1]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    save(tmp_path, 3, *trained(0))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00000001", "00000003"]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("file", ["weights.pt", "optimizer.pt"])
def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path, 1, *trained(0))
    torch.save({"weight": Evil()}, folder / file)
    model, optimizer = trained(0)
    with pytest.raises(FormatError, match="cannot read"):
        checkpoint.load(folder, model=model, optimizer=optimizer, device=CPU)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("file", ["weights.pt", "optimizer.pt", "state.json"])
def test_a_damaged_checkpoint_says_so(tmp_path, file):
    folder = save(tmp_path, 1, *trained(0))
    (folder / file).write_bytes((folder / file).read_bytes()[:40])
    model, optimizer = trained(0)
    with pytest.raises(FormatError, match="cannot read"):
        checkpoint.load(folder, model=model, optimizer=optimizer, device=CPU)


def test_weights_of_another_model_are_refused(tmp_path):
    folder = save(tmp_path, 1, *trained(0))
    with pytest.raises(FormatError, match="another model"):
        checkpoint.load_weights(folder, model=torch.nn.Linear(5, 2), device=CPU)
