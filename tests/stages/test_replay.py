"""What tuning forgets of the base's corpus, and corpus text between the answers."""

import json
import shutil

import numpy as np
import pytest
import torch

from llmstages.config.groups import EvaluateConfig, ReplayConfig
from llmstages.data.batch import IGNORED
from llmstages.data.examples import Example, PackedData
from llmstages.data.replay import ReplayedData
from llmstages.errors import CheckFailed, UserError
from llmstages.stages import finetune_instruct
from llmstages.stages.lineage.links import check_lineage
from llmstages.stages.lineage.prove import prove
from llmstages.train.losses import sparse_loss


def conversations(count=40, rows_per_step=4):
    """Examples of 10 tokens, of which 4 are learnt, in rows of 40."""
    examples = [
        Example([n + 1] * 10, [IGNORED] * 6 + [n + 1] * 4, f"pairs:{n}") for n in range(count)
    ]
    return PackedData(
        examples, context_length=40, rows_per_step=rows_per_step, rows_per_micro_batch=2, seed=3
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_each_step_has_the_share_of_tokens(share, make_shard):
    shard = make_shard(np.arange(1, 5001) % 300 + 1)
    data = ReplayedData(conversations(), [shard], share)
    assert data.steps_per_epoch == conversations().steps_per_epoch == 3
    for epoch in range(3):
        text = answers = 0
        for step in range(3 * epoch, 3 * epoch + 3):
            for batch in data.micro_batches(step):
                if batch.document_refs[0].startswith("pairs:"):
                    answers += batch.num_real_tokens
                    continue
                text += batch.num_real_tokens
                assert (batch.targets != IGNORED).all()
                assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
                assert batch.tokens.shape[1] <= 40
        assert answers == 400
        assert text / (text + answers) == pytest.approx(share, abs=0.01)


def test_a_step_does_not_depend_on_those_before(make_shard):
    shard = make_shard(np.arange(1, 3001) % 300 + 1)

    def step(data, number):
        return [tensor.tolist() for b in data.micro_batches(number) for tensor in b.tensors()]

    one = ReplayedData(conversations(), [shard], 0.3)
    in_order = [step(one, number) for number in range(7)]
    assert step(ReplayedData(conversations(), [shard], 0.3), 6) == in_order[6]
    assert step(one, 2) == in_order[2] != in_order[3]


def test_the_loss_is_one_per_token(make_shard, instruct_run):
    """Of a step: nats of answers and text together, over targets of both."""
    from llmstages.train.checkpoint import load_checkpoint

    model = load_checkpoint(instruct_run).model.eval()
    shard = make_shard(np.arange(1, 3001) % 300 + 1)
    data = ReplayedData(conversations(), [shard], 0.5)
    parts = [sparse_loss(model, batch) for batch in data.micro_batches(0)]
    targets = sum(float(count) for _, count in parts)
    alone = sum((b.targets != IGNORED).sum().item() for b in conversations().micro_batches(0))
    assert targets == alone + data.text.tokens_per_step


def test_replay_remembers(tmp_path, instruct_config, instruct_file, tiny_corpus, capfd):
    """With half of the tokens from the corpus less of it is forgotten; and it can be proved."""
    summaries = {}
    corpus = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    for share in (0.0, 0.5):
        config = instruct_config(
            tmp_path, name=f"share-{share}", replay=ReplayConfig(share, str(corpus)), steps=12
        )
        finetune_instruct.run(config)
        path = tmp_path / f"share-{share}" / "summary.json"
        summaries[share] = json.loads(path.read_text("utf-8"))
    err = " ".join(capfd.readouterr().err.split())  # where lines break depends on a path's length
    assert "tokens of" in err
    assert "optimizer muon, as the base was trained, peak rate" in err
    before = [summary["metrics_before"]["base_bits_per_byte"] for summary in summaries.values()]
    after = [summary["metrics"]["base_bits_per_byte"] for summary in summaries.values()]
    assert before[0] == before[1]
    assert after[1] < after[0]
    run = tmp_path / "share-0.5"
    prove(run, 1)
    links = [(link.what, link.where) for link in check_lineage(run)]
    assert [where for what, where in links if what == "corpus manifest"] == [corpus, tiny_corpus]
    tokens = [where for what, where in links if what == "tokens" and corpus in where.parents]
    (path,) = (where for where in tokens if where.name == "train-topics.bin")
    ids = np.fromfile(path, "<u2")
    ids[5] += 1
    ids.tofile(path)
    with pytest.raises(CheckFailed, match=r"train-topics\.bin: not what was recorded .tokens"):
        list(check_lineage(run))


def test_no_corpus_is_said(tmp_path, instruct_config, instruct_file, tiny_run, tiny_corpus, capfd):
    """A base that lies alone: measured with `replay.data` only, and no replay without."""
    alone = shutil.copytree((tiny_run / "best").resolve(), tmp_path / "alone")
    looking = EvaluateConfig(every_steps=1, max_tokens=500, num_samples=0, num_generations=1)
    few = {"base": str(alone), "steps": 1, "evaluate": looking}
    with pytest.raises(UserError, match=r"replay\.share needs .* set replay\.data=CORPUS_DIR"):
        finetune_instruct.run(instruct_config(tmp_path, **few, replay=ReplayConfig(share=0.1)))
    finetune_instruct.run(instruct_config(tmp_path, name="without", **few))
    assert "is not measured: the run of the base does not say" in " ".join(
        capfd.readouterr().err.split()
    )
    named = ReplayConfig(data=str(tiny_corpus))
    finetune_instruct.run(instruct_config(tmp_path, name="with", **few, replay=named))
    for name in ("without", "with"):
        metrics = json.loads((tmp_path / name / "summary.json").read_text("utf-8"))["metrics"]
        assert ("base_bits_per_byte" in metrics) == (name == "with")
