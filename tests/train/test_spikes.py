"""A loss far above those before is noticed, and nothing else is."""

import random

from llmstages.config.groups import CheckpointConfig, EvaluateConfig
from llmstages.stages import pretrain
from llmstages.train.spikes import MAX_IN_A_ROW, MIN_STEPS, SpikeWatch


def test_a_spike_is_noticed_once_and_does_not_hide_the_next():
    watch, generator = SpikeWatch(), random.Random(0)
    falling = [8 * 0.98**step + generator.gauss(0, 0.05) for step in range(300)]
    assert not [loss for loss in falling if watch.usual(loss) is not None]
    mean = watch.usual(5.0)
    assert mean is not None
    assert abs(mean - sum(falling[-100:]) / 100) < 1e-9
    assert watch.usual(5.0) == mean


def test_another_level_is_not_told_of_for_ever():
    watch = SpikeWatch()
    losses = [2.0 + 0.01 * (step % 3) for step in range(60)] + [2.6] * 1000
    assert sum(watch.usual(loss) is not None for loss in losses) == MAX_IN_A_ROW


def test_too_little_is_known_at_first_and_equal_losses_have_no_spikes():
    watch = SpikeWatch()
    assert [watch.usual(loss) for loss in [1.0] * (MIN_STEPS - 1) + [9.0]] == [None] * MIN_STEPS
    watch = SpikeWatch()
    assert [watch.usual(loss) for loss in [1.0] * 50 + [1.05]] == [None] * 51
    assert watch.usual(1.2) is not None


def test_its_documents_are_named(tmp_path, pretrain_config, monkeypatch, capfd):
    usual, steps = pretrain.pretraining_loss, []

    def loss_of(z_loss):
        whole = usual(z_loss)

        def loss(model, batch):
            total, count = whole(model, batch)
            steps.append(1)
            return (100 * total if len(steps) in (49, 50) else total), count

        return loss

    monkeypatch.setattr(pretrain, "pretraining_loss", loss_of)
    looking = EvaluateConfig(every_steps=30, max_tokens=500, num_samples=0)
    checkpoint = CheckpointConfig(every_steps=30)
    pretrain.run(pretrain_config(tmp_path, steps=30, evaluate=looking, checkpoint=checkpoint))
    said = [line for line in capfd.readouterr().err.splitlines() if "is usual" in line]
    assert len(said) == 1
    assert said[0].startswith("step 25: the loss is ")
    assert "topics/" in said[0]
    assert said[0] in (tmp_path / "pretrain" / "log.txt").read_text(encoding="utf-8")
