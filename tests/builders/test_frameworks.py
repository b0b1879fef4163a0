"""A model in plain loops, and in those of libraries that ``make test-nightly`` installs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import slowfast_mvit as sm
from slowfast_mvit.builders.hub import with_hub_methods
from slowfast_mvit.builders.lists import mvit_from_lists

PIXELS = torch.randn(4, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 0, 1])


def tiny():
    torch.manual_seed(0)
    lists = {"depth": 2, "embed_dim": 16, "pool_kv_stride_adaptive": [1, 4, 4]}
    lists |= {"pool_q_stride": [[0, 1, 1, 1], [1, 1, 2, 2]], "pool_kvq_kernel": (3, 3, 3)}
    return with_hub_methods(mvit_from_lists(**lists, input_size=(4, 32, 32), num_classes=2))


def batches():
    return DataLoader(TensorDataset(PIXELS, LABELS), batch_size=4)


def loss_of(model):
    with torch.no_grad():
        return cross_entropy(model.eval()(PIXELS), LABELS).item()


def train(model, optimizer, num_steps=10, backward=torch.Tensor.backward):
    model.train()
    for _ in range(num_steps):
        optimizer.zero_grad()
        backward(cross_entropy(model(PIXELS), LABELS))
        optimizer.step()


def test_a_model_learns_in_a_plain_loop():
    model = tiny()
    first = loss_of(model)

    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))

    assert loss_of(model) < 0.5 * first


@pytest.mark.nightly
def test_lora_of_peft_trains_and_is_merged(tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = peft.LoraConfig(r=4, target_modules=["qkv", "fc1"], modules_to_save=["head"])
    adapted = peft.get_peft_model(model, config)
    first = loss_of(adapted)

    trainable = [p for p in adapted.parameters() if p.requires_grad]
    train(adapted, torch.optim.AdamW(trainable, lr=1e-2))

    assert loss_of(adapted) < 0.5 * first
    with torch.no_grad():
        expected = adapted(PIXELS)
    merged = adapted.merge_and_unload()
    torch.save(merged.state_dict(), tmp_path / "merged.pth")
    again = tiny().eval()
    sm.load_weights(again, tmp_path / "merged.pth", head="keep")
    with torch.no_grad():
        torch.testing.assert_close(again(PIXELS), expected, rtol=0, atol=1e-4)
    state = again.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, state[name])}
    assert {name.split(".")[-2] for name in changed} == {"qkv", "fc1", "projection"}


@pytest.mark.nightly
def test_lightning_trains_and_its_checkpoint_is_read(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = tiny()

        def training_step(self, batch, _):
            pixels, labels = batch
            return cross_entropy(self.model(pixels), labels)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    task = Task()
    first = loss_of(task.model)
    trainer = lightning.Trainer(
        max_epochs=10,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task.train(), batches())
    trainer.save_checkpoint(tmp_path / "task.ckpt")

    assert loss_of(task.model) < 0.5 * first
    again = tiny().eval()
    sm.load_weights(again, tmp_path / "task.ckpt", head="keep")
    with torch.no_grad():
        assert torch.equal(again(PIXELS), task.model.eval()(PIXELS))


@pytest.mark.nightly
def test_accelerate_trains_and_the_model_is_saved(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = tiny()
    first = loss_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prepared, optimizer, _ = accelerator.prepare(model, optimizer, batches())

    train(prepared, optimizer, backward=accelerator.backward)

    assert loss_of(prepared) < 0.5 * first
    accelerator.unwrap_model(prepared).save_pretrained(tmp_path)
    with torch.no_grad():
        expected = accelerator.unwrap_model(prepared).eval()(PIXELS)
        assert torch.equal(sm.from_pretrained(tmp_path)(PIXELS), expected)
