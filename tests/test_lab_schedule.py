"""The schedule of p: its values, in a user's own training and in the lab, and after going on from a checkpoint."""

from __future__ import annotations

import math
import re

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import empool
import tiny_data
from empool.lab.errors import LabError
from empool.lab.execute.configure import Options, configure
from empool.lab.train import experiment, loop
from empool.lab.train.callback import PSchedule
from empool.lab.train.loop import fit
from empool.lab.train.schedule import parse

# Lightning's own use of what PyTorch deprecates, and its advice.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
QUIET = {
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    "accelerator": "cpu",
}


@pytest.mark.parametrize(
    ("spelling", "values"),  # for p = 0.4 after 0, 1, 2.5, 5 and 10 of 10 epochs
    [
        ("constant", [0.4, 0.4, 0.4, 0.4, 0.4]),
        ("warmup:5", [0.0, 0.08, 0.2, 0.4, 0.4]),
        ("anneal:0", [0.4, 0.36, 0.3, 0.2, 0.0]),
        ("cosine:0", [0.4, 0.2 + 0.2 * math.cos(math.pi / 10), 0.2 + 0.2 * math.sqrt(0.5), 0.2, 0.0]),
        ("cosine:0.1", [0.4, 0.25 + 0.15 * math.cos(math.pi / 10), 0.25 + 0.15 * math.sqrt(0.5), 0.25, 0.1]),
    ],
)
def test_values_by_hand(spelling, values):
    read = parse(spelling)
    assert str(read) == spelling
    given = [read.value(0.4, epoch, 10) for epoch in (0, 1, 2.5, 5, 10)]
    assert given == pytest.approx(values)
    assert (given[0], given[-1]) == (values[0], values[-1])


KNOWN = "expected constant, warmup:EPOCHS, anneal:FINAL or cosine:FINAL"


@pytest.mark.parametrize(
    ("message", "spellings"),
    [
        (KNOWN + ', got "{}"', ["linear:0", "warmup", "constant:1", "anneal:low", ""]),
        ('expected a warm-up of more than 0 epochs, got "{}"', ["warmup:0", "warmup:inf"]),
        ("expected FINAL in [0, 1], got ", ["anneal:1.5", "cosine:nan"]),
    ],
)
def test_other_spellings_are_refused(message, spellings):
    for spelling in spellings:
        with pytest.raises(ValueError, match=f"^{re.escape(f'p_schedule: {message.format(spelling)}')}"):
            parse(spelling)


class Net(pl.LightningModule):
    """A user's own network, which notes the p of every step and of every test."""

    def __init__(self, pool):
        super().__init__()
        self.layers = nn.Sequential(pool, nn.Flatten(), nn.Linear(4, 2))
        self.training_p, self.validation_p = [], []

    def training_step(self, batch, batch_idx):
        self.training_p.append(self.layers[0].p)
        return self.layers(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.validation_p.append(self.layers[0].p)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def batches(count):
    return torch.utils.data.DataLoader(torch.randn(count, 1, 4, 4), batch_size=1)


def train(net, callback, epochs, checkpoint=None):
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[callback], **QUIET)
    trainer.fit(net, batches(4), batches(1), ckpt_path=checkpoint, weights_only=True)


def test_p_changes_with_every_batch_of_a_users_own_training():
    net = Net(empool.MaxPoolDropout2d(2, p=0.9))
    train(net, PSchedule("warmup:1.5", p=0.6), 2)
    assert net.training_p == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6])
    assert net.validation_p == pytest.approx([0.4, 0.6])  # What the training has come to by then.
    assert net.layers[0].p == 0.6


def test_p_is_right_after_going_on_from_a_checkpoint(tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "first.ckpt")
            trainer.should_stop = True

    whole, first, rest = (Net(empool.EnsembleMaxPool2d(2, p=0.4)) for _ in range(3))
    train(whole, PSchedule("cosine:0", p=0.4), 3)
    trainer = pl.Trainer(max_epochs=3, callbacks=[PSchedule("cosine:0", p=0.4), Stop()], **QUIET)
    trainer.fit(first, batches(4))
    assert first.training_p == whole.training_p[:4]
    train(rest, PSchedule("cosine:0", p=0.4), 3, tmp_path / "first.ckpt")
    assert rest.training_p == whole.training_p[4:]
    assert rest.layers[0].p == whole.layers[0].p == 0.0


def test_batches_without_a_number_change_p_by_the_epoch():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.randn(2, 1, 4, 4))

    net = Net(empool.EnsembleMaxPool2d(2))
    trainer = pl.Trainer(max_epochs=2, callbacks=[PSchedule("anneal:0", p=0.4)], **QUIET)
    trainer.fit(net, torch.utils.data.DataLoader(Endless(), batch_size=1))
    assert net.training_p == [0.4, 0.4, 0.2, 0.2]


def test_what_cannot_be_scheduled_is_refused():
    with pytest.raises(ValueError, match=r"^PSchedule: expected p in \[0, 1\], got 1.5$"):
        PSchedule("constant", p=1.5)
    trainer = pl.Trainer(max_steps=3, callbacks=[PSchedule("anneal:0", p=0.4)], **QUIET)
    with pytest.raises(ValueError, match="anneal:0 depends on the number of epochs"):
        trainer.fit(Net(empool.EnsembleMaxPool2d(2)), batches(4))
    for pool in (nn.MaxPool2d(2), empool.StochasticPool2d(2)):
        with pytest.raises(ValueError, match="expected a model with layers that have a p"):
            train(Net(pool), PSchedule("warmup:1", p=0.4), 1)


def test_the_lab_tests_with_the_p_that_training_has_come_to(tmp_path, monkeypatch):
    seen = []

    class Seen(experiment.Experiment):
        def tally(self, split):
            seen.append(next(m.p for m in self.network.modules() if isinstance(m, empool.EnsembleMaxPool2d)))
            return super().tally(split)

    monkeypatch.setattr(loop, "Experiment", Seen)
    fit(tiny_data.config("ensemble:0.4", epochs=4, p_schedule="anneal:0"), tiny_data.data_set(), tmp_path)
    assert seen == pytest.approx([0.3, 0.2, 0.1, 0.0, 0.0])  # After the last epoch the training images, too.


def test_a_study_schedules_the_poolings_that_have_a_p():
    def configured(spelling, *poolings):
        return configure(Options(p_schedule=spelling, epochs=2), poolings)[0]

    runs = configured("warmup:2.0", "max", "ensemble:0.1")
    assert [(run.p, run.p_schedule) for run in runs] == [(None, "warmup:2"), (0.1, "warmup:2")]
    for spelling, message in {
        "warmup:2": "warmup:2 needs a pooling with a p, ensemble:P or max-dropout:P, got max, ordinal:0.5,0.5",
        "warmup:3": "warmup:3 is longer than the training, whose epochs are 2",
        "fall:0": f'{KNOWN}, got "fall:0"',
    }.items():
        with pytest.raises(LabError, match=f"^{re.escape(f'p_schedule: {message}')}$"):
            configured(spelling, "max", "ordinal:0.5,0.5")
