"""Sampling rules on logits made by hand, and the cache against computing everything anew."""

import pytest
import torch

from llmstages.model.generation import Generated, Sampling, draw, generate, make_cache

GREEDY = Sampling(temperature=0.0)


def shares(sampling, probabilities=(0.5, 0.25, 0.15, 0.1)):
    """How often each token is drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([probabilities]).log().expand(20_000, -1)
    drawn = draw(logits, sampling, generator)
    return (torch.bincount(drawn, minlength=len(probabilities)) / len(drawn)).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), (0.5, 0.25, 0.15, 0.1)),
        (Sampling(0.0), (1, 0, 0, 0)),
        (Sampling(1.0, top_k=1), (1, 0, 0, 0)),
        (Sampling(1.0, top_k=2), (2 / 3, 1 / 3, 0, 0)),
        (Sampling(1.0, top_k=9), (0.5, 0.25, 0.15, 0.1)),
        (Sampling(1.0, top_p=0.0), (1, 0, 0, 0)),
        (Sampling(1.0, top_p=0.45), (1, 0, 0, 0)),
        (Sampling(1.0, top_p=0.55), (2 / 3, 1 / 3, 0, 0)),
        (Sampling(1.0, top_p=0.8), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0)),
        (Sampling(1.0, top_p=1.0), (0.5, 0.25, 0.15, 0.1)),
        # temperature 1/2 squares the probabilities
        (Sampling(0.5), (0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345)),
        # top-p is taken of what top-k leaves: 2/3 and 1/3
        (Sampling(1.0, top_k=2, top_p=0.6), (1, 0, 0, 0)),
    ],
)
def test_draw(sampling, expected):
    found = shares(sampling)
    assert found == pytest.approx(expected, abs=0.015)
    assert [share == 0 for share in found] == [share == 0 for share in expected]


def test_top_p_takes_no_more_than_the_share_asked_for():
    # The first token alone holds the half that is asked for.
    assert shares(Sampling(1.0, top_p=0.5), (0.5, 0.25, 0.25)) == [1, 0, 0]


def recompute(model, prompt, count):
    """Greedy continuation, the whole sequence computed anew for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_cache_equals_recomputing(random_model, num_kv_heads):
    model = random_model(num_kv_heads=num_kv_heads)
    prompt = [5, 17, 80, 3]
    (answer,) = generate(model, [prompt], max_new_tokens=20, stop_ids=[], sampling=GREEDY)
    assert answer == Generated(recompute(model, prompt, 20), stopped=False)


def test_batch_of_any_prompts_equals_one_at_a_time(random_model):
    model = random_model()
    prompts = [[5], [17, 80, 3, 9, 12, 44], [60, 61, 62]]
    alone = [
        generate(model, [p], max_new_tokens=12, stop_ids=[], sampling=GREEDY)[0] for p in prompts
    ]
    assert generate(model, prompts, max_new_tokens=12, stop_ids=[], sampling=GREEDY) == alone


def test_rows_that_stop_do_not_disturb_the_others(random_model):
    model = random_model()
    prompts = [[5], [17, 80, 3, 9, 12, 44], [60, 61, 62], [7, 7]]
    free = generate(model, prompts, max_new_tokens=12, stop_ids=[], sampling=GREEDY)
    stop = free[1].tokens[2]  # ends the second answer after two tokens at the latest
    answers = generate(model, prompts, max_new_tokens=12, stop_ids=[stop], sampling=GREEDY)
    assert len(answers[1].tokens) <= 2
    assert answers[1].stopped
    for answer, whole in zip(answers, free, strict=True):
        if stop in whole.tokens:
            assert answer == Generated(whole.tokens[: whole.tokens.index(stop)], stopped=True)
        else:
            assert answer == whole


def test_hidden_states_do_not_depend_on_left_padding(random_model):
    model = random_model()
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    padded = torch.tensor([[0, 0, 0, 1, 2, 3, 4, 5]])
    with torch.inference_mode():
        cache = make_cache(model, torch.tensor([3]), 8, torch.float32)
        found = model(padded, cache=cache)
        torch.testing.assert_close(found[:, 3:], model(tokens), atol=1e-5, rtol=0)
        assert bool(found.isfinite().all())


def test_cache_in_pieces(random_model):
    """A prompt read in two pieces, as a chat would, gives what one reading gives."""
    model = random_model()
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    with torch.inference_mode():
        cache = make_cache(model, torch.tensor([0]), 7, torch.float32)
        model(tokens[:, :3], cache=cache)
        rest = model(tokens[:, 3:], cache=cache)
        torch.testing.assert_close(rest, model(tokens)[:, 3:], atol=1e-5, rtol=0)


def test_prompt_longer_than_the_context_loses_its_beginning(random_model):
    model = random_model()  # reads 32 tokens
    prompt = [index % 96 for index in range(3, 103)]
    (answer,) = generate(model, [prompt], max_new_tokens=10, stop_ids=[], sampling=GREEDY)
    assert answer.tokens == recompute(model, prompt[-24:], 8)  # a quarter is left for the answer
    (long,) = generate(model, [prompt], max_new_tokens=1000, stop_ids=[], sampling=GREEDY)
    assert long.tokens == recompute(model, prompt[-24:], 8)
    (short,) = generate(model, [prompt[:20]], max_new_tokens=1000, stop_ids=[], sampling=GREEDY)
    assert short.tokens == recompute(model, prompt[:20], 12)  # nothing of the prompt is lost


def test_same_generator_same_text_and_streaming(random_model):
    model = random_model()
    seen = []

    def sample(seed, on_token=None):
        return generate(
            model,
            [[1, 2], [3]],
            max_new_tokens=8,
            stop_ids=[],
            sampling=Sampling(1.0),
            generator=torch.Generator().manual_seed(seed),
            on_token=on_token,
        )

    answers = sample(0, lambda row, token: seen.append((row, token)))
    assert answers == sample(0) != sample(1)
    for row, answer in enumerate(answers):
        assert [token for where, token in seen if where == row] == answer.tokens


def test_prompt_without_a_token_is_refused_and_the_mode_is_kept(random_model):
    model = random_model()
    with pytest.raises(ValueError, match="no token"):
        generate(model, [[1], []], max_new_tokens=2, stop_ids=[], sampling=GREEDY)
    model.train()
    generate(model, [[1]], max_new_tokens=2, stop_ids=[], sampling=GREEDY)
    assert model.training
