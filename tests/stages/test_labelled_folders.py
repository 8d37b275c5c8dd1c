"""A folder of mails from training to prediction: the lecture's example, spam and ham.

Names are in Latin-1, as old mail has them.
"""

import json
import re

from llmstages.stages import finetune_classify


def test_mails_from_folder_to_prediction(cli, classify_config, tmp_path):
    mails = tmp_path / "mails"
    words = [f"{word}{number}" for number in range(12) for word in ("meet", "noon", "win", "prize")]
    for label, begin in (("ham", 0), ("spam", 2)):
        (mails / label).mkdir(parents=True)
        for number in range(12):
            body = " ".join(words[4 * number + begin : 4 * number + begin + 2])
            mail = f"From: a@example.org\nSubject: {label} {number}\n\n{body}\n"
            (mails / label / f"{number}\udce9.eml").write_text(mail, encoding="utf-8")
    (mails / "spam" / "empty.eml").write_text("", encoding="utf-8")
    (mails / "ham").rename(mails / "h\udce4m")
    finetune_classify.run(classify_config(tmp_path, data=f"{mails}/", steps=2))
    run = tmp_path / "mails-classify"
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert sum(summary["examples"].values()) == 24
    assert summary["metrics"]["labels"] == ["h\\xe4m", "spam"]
    assert "\\\\xe9.eml" in (run / "predictions.jsonl").read_text("utf-8")
    assert summary["set_aside"] == {"empty file": 1}

    status, out, err = cli("predict", run, mails / "h\udce4m")
    assert status == 0, err
    assert [json.loads(line)["id"] for line in out.splitlines()][:2] == [
        "0\\xe9.eml",
        "10\\xe9.eml",
    ]
    status, out, err = cli("evaluate", run, mails)
    assert status == 0, err
    # A mistake, by its file, subject and body on one line: two steps teach nothing.
    assert re.search(r"(h\\xe4m|spam)/\d+\\xe9\.eml", err), err
    assert re.search(r"(ham \d+ meet|spam \d+ win)\d", err), err
    report = json.loads(out)
    assert (report["num_examples"], report["skipped_rows"]) == (24, 1)
    status, out, err = cli("inspect", mails)
    assert status == 0, err
    assert "empty file" in out
    assert "finetune-classify" in out
    assert "spam 0" in out or "ham 0" in out
