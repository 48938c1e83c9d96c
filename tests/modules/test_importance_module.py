"""Training of the importance network: it learns a map, validates at the input size, refuses bad input."""

import pytest
import torch
from lightning import Trainer, seed_everything
from mean_task import MeanTask

from vcm.codecs import BPGCodec
from vcm.data.datamodule import Batch
from vcm.encoding import ImageEncoder, Importance
from vcm.errors import ArgumentError
from vcm.modules import ImportanceModule
from vcm.nn.importance import ImportanceNetwork, block_octaves, load_importance
from vcm.tasks import YOLOTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*log_every_n_steps", "ignore:.*LeafSpec"
)


class BrightTask(MeanTask):
    """Reads images at 64 pixels a side, and finds bright pixels important."""

    def reader_size(self, height, width):
        return min(height, 64), min(width, 64)

    def importance(self, image, *, directions=4, seed=0):
        self.asked.append((tuple(image.shape[1:]), directions, seed))
        return image.detach().mean(dim=0).clamp(min=1e-3) ** 4


def task():
    torch.manual_seed(1)
    made = BrightTask()
    made.asked = []
    return made


def make(tasks=None, **settings):
    seed_everything(2, verbose=False)
    tasks = {"detection": task()} if tasks is None else tasks
    return ImportanceModule(
        ImportanceNetwork((4, 4, 8, 8, 8), 64), tasks, **{"learning_rate": 0.02, **settings}
    )


def trainer(folder, **options):
    return Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def bright(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(count, 1, 4, 4, generator=generator)
    return cells.repeat_interleave(32, 2).repeat_interleave(32, 3).expand(-1, 3, -1, -1).contiguous()


def test_it_learns_the_map(monkeypatch):
    module = make(directions=3)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.02)
    losses = []
    for step in range(60):
        loss = module.training_step(Batch(bright(seed=step), [None] * 4, list("abcd")), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.35 * sum(losses[:3]) / 3 * 10
    shape, directions, _ = module.tasks["detection"].asked[0]
    assert (shape, directions) == ((128, 128), 3)


def test_the_loss_is_the_squared_error_of_octaves(monkeypatch):
    module = make()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module.network.eval()
    x = bright(2)
    loss = module.training_step(Batch(x, [None] * 2, ["a", "b"]), 0)
    target = torch.stack([block_octaves(image.mean(dim=0).clamp(min=1e-3) ** 4) for image in x])
    torch.testing.assert_close(loss, (module.network(x) - target).square().mean())


def test_crops_need_more_than_one_block():
    with pytest.raises(ArgumentError, match=r"data\.crop_size must be more than 32 pixels"):
        make().training_step(Batch(torch.rand(2, 3, 32, 32), [None] * 2, ["a", "b"]), 0)


def test_each_crop_draws_one_of_the_tasks(monkeypatch):
    tasks = {"one": task(), "two": task()}
    module = make(tasks)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    for step in range(8):
        module.training_step(Batch(bright(), [None] * 4, list("abcd")), step)
    counts = [len(each.asked) for each in tasks.values()]
    assert sum(counts) == 32
    assert min(counts) > 5


def test_targets_and_validation_of_a_real_detector(image_data, tmp_path):
    torch.manual_seed(1)
    module = make({"detection": YOLOTask("yolov3", None, input_size=64)})
    run = trainer(tmp_path, precision="bf16-mixed", limit_train_batches=1, limit_val_batches=1)
    run.fit(module, image_data())
    assert run.callback_metrics["train/loss"] > 0
    assert run.callback_metrics["val/loss"] > 0


def test_a_training_validates_at_the_input_size_and_writes_a_model(image_data, tmp_path):
    module = make()
    run = trainer(tmp_path)
    run.fit(module, image_data())
    assert {"val/loss", "val/explained"} <= set(run.callback_metrics)
    sizes = {size for size, directions, _ in module.tasks["detection"].asked if directions == 4}
    assert sizes
    assert all(max(size) <= 64 for size in sizes)
    module.save_model(tmp_path / "m.safetensors")
    network = load_importance(tmp_path / "m.safetensors")
    importance = Importance(network=network)
    assert not importance.needs_task
    assert importance.settings()["network"]["input_size"] == 64
    image = (255 * bright(1)[0]).to(torch.uint8)
    offsets = importance.offsets(image)
    assert offsets.shape == (4, 4)
    codec = BPGCodec(40, preset="ultrafast")
    encoded = ImageEncoder(codec, importance=importance).encode(image)
    assert encoded == codec.encode(image, offsets, block=32)


@pytest.mark.parametrize(
    ("make_module", "message"),
    [
        (lambda: make(tasks={}), "tasks must be at least one task"),
        (lambda: make(tasks={"detection": 3}), "tasks.detection must be"),
        (lambda: make(directions=0), "directions must be"),
        (lambda: ImportanceModule(None, {"detection": task()}), "say network=importance"),
        (lambda: Importance(network="m.safetensors"), "importance.network must be an ImportanceNetwork"),
        (lambda: Importance(network=ImportanceNetwork(), task=task()), "importance.network must be null"),
        (lambda: Importance(directions=0), "directions must be"),
    ],
)
def test_settings_that_cannot_be_are_told(make_module, message):
    with pytest.raises(ArgumentError, match=message):
        make_module()
