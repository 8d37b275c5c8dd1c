"""Sampling rules on logits made by hand, and the cache against computing everything anew."""

import pytest
import torch

from llmstages.model.decoding import FEW_ROWS, Decoder, product
from llmstages.model.generation import (
    Generated,
    Repetitions,
    Sampling,
    draw,
    generate,
    seeded,
    stream,
)
from llmstages.model.lora import Lora, add_lora

GREEDY = Sampling(temperature=0.0)


def shares(sampling, probabilities=(0.5, 0.25, 0.15, 0.1)):
    """How often each token is drawn."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([probabilities]).log().expand(20_000, -1)
    drawn = draw(logits, sampling, torch.rand(len(logits), generator=generator))
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


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("qwen3", {"num_kv_heads": 1}),
        ("qwen3", {"tie_embeddings": False, "num_kv_heads": 4}),
        ("nanochat", {"tie_embeddings": False}),
    ],
)
def test_the_decoder_computes_what_the_model_does(random_model, layout, shape):
    """Prompts of unequal length in one reading, then steps, against each text by itself."""
    model = random_model(layout, **shape)
    texts = [[5], [17, 80, 3, 9, 12, 44], [60, 61, 62]]
    more = [[7, 8], [9, 1], [4, 90]]
    with torch.inference_mode():
        expected = [
            model.logits(model(torch.tensor([text + rest]))[0, len(text) - 1 :])
            for text, rest in zip(texts, more, strict=True)
        ]
    decoder = Decoder(model)
    cache = decoder.empty_cache([len(text) for text in texts], 8)
    found = [decoder.read(cache, texts)]
    found += [decoder.step(cache, torch.tensor([row[i] for row in more])) for i in range(2)]
    torch.testing.assert_close(torch.stack(found, 1), torch.stack(expected), atol=1e-4, rtol=0)
    assert float(found[0].std()) > 0.1


@pytest.mark.parametrize("decomposed", [False, True])
def test_the_decoder_of_an_adapted_model(random_model, decomposed):
    model = random_model()
    targets = ("query", "up", "down" if decomposed else "embedding")
    add_lora(model, Lora(2, 4.0, targets, decomposed=decomposed), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.normal_(0, 0.3)
        expected = model.logits(model(torch.tensor([[1, 2, 3]]))[0, -1:])
    decoder = Decoder(model)
    found = decoder.read(decoder.empty_cache([3], 3), [[1, 2, 3]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_products_in_bfloat16(random_model):
    model = random_model()
    decoder = Decoder(model, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model.logits(model(torch.tensor([[1, 2, 3, 4]]))[0, -2:])
    cache = decoder.empty_cache([3], 4)
    found = torch.cat([decoder.read(cache, [[1, 2, 3]]), decoder.step(cache, torch.tensor([4]))])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_cache_in_pieces(random_model):
    """A prompt read in two pieces, as a chat does, gives what one reading gives."""
    model = random_model()
    decoder = Decoder(model)
    text = [1, 2, 3, 4, 5, 6, 7]
    cache = decoder.empty_cache([3], 10)
    decoder.read(cache, [text[:3]])
    decoder.step(cache, torch.tensor([50]))  # an answer that is then taken back
    for known in (3, 6):
        cache.length = len(text)
        found = decoder.read(cache, [text], known)
        whole = decoder.read(decoder.empty_cache([7], 7), [text])
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="single text"):
        decoder.read(cache, [text, text], 2)


@pytest.mark.parametrize("rows", [1, 2, FEW_ROWS, FEW_ROWS + 1])
def test_product_of_any_number_of_rows(rows):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 12, generator=generator) for n in (rows, 30))
    torch.testing.assert_close(product(x, weight), x @ weight.t())


def test_what_followed_before_is_guessed():
    text = Repetitions([1, 2, 3, 4, 1, 2])
    assert text.guess(3) == [3, 4, 1]
    assert text.guess(0) == []
    text.add(9)
    assert text.guess(3) == []  # 2 9 is new
    for token in (1, 2):
        text.add(token)
    assert text.guess(2) == [9, 1]  # the last time counts
    assert Repetitions([]).guess(3) == Repetitions([7]).guess(3) == []


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.7, top_k=3)])
def test_guesses_change_the_speed_alone(random_model, monkeypatch, sampling):
    model = random_model(vocab_size=24, context_length=128)
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8] * 6, [3, 3, 3, 3], [9, 4, 9, 4, 9]]
    passes = []
    for name in ("read", "step"):
        method = getattr(Decoder, name)

        def counted(*arguments, method=method):
            passes.append(method.__name__)
            return method(*arguments)

        monkeypatch.setattr(Decoder, name, counted)

    def answers(stop_ids):
        passes.clear()
        return [
            generate(
                model,
                [prompt],
                max_new_tokens=70,
                stop_ids=stop_ids,
                sampling=sampling,
                generator=torch.Generator().manual_seed(5),
            )[0]
            for prompt in prompts
        ]

    free, guessed = answers([]), len(passes)
    stop = free[0].tokens[40]
    stopped = answers([stop])
    monkeypatch.setattr(Repetitions, "guess", lambda self, most: [])
    assert free == answers([])
    assert len(passes) == 3 * 70
    assert guessed < len(passes)
    assert stopped == answers([stop])
    assert stopped[0].stopped


def test_a_stream_says_how_much_of_it_is_in_the_cache(random_model):
    model = random_model(vocab_size=12, context_length=96)
    decoder = Decoder(model)
    text = [1, 2, 3, 4, 5, 6] * 3
    for taken in range(1, 40):
        cache = decoder.empty_cache([0], 8)
        tokens = stream(
            decoder,
            cache,
            text,
            0,
            max_new_tokens=60,
            stop_ids=[],
            sampling=GREEDY,
            generator=seeded(0),
        )
        given = [next(tokens) for _ in range(taken)]
        held = [*text, *given][: cache.length]
        assert len(text) <= len(held) <= len(text) + taken
        # Going on from what is said to be there equals reading all of it.
        whole = [*text, *given, 7]
        cache.length = len(whole)
        cache.reserve(cache.length)
        logits = decoder.read(cache, [whole], len(held))
        fresh = decoder.empty_cache([len(whole)], len(whole))
        torch.testing.assert_close(logits, decoder.read(fresh, [whole]))


def test_equal_prompts_are_read_once(random_model, monkeypatch):
    read = []
    original = Decoder.read
    monkeypatch.setattr(
        Decoder,
        "read",
        lambda self, cache, texts: read.append(texts) or original(self, cache, texts),
    )
    model = random_model()
    prompts = [[5, 6], [7], [5, 6], [5, 6]]
    answers = generate(model, prompts, max_new_tokens=6, stop_ids=[], sampling=GREEDY)
    assert read == [[(5, 6), (7,)]]
    assert answers[0] == answers[2] == answers[3] != answers[1]
    assert answers[1].tokens == recompute(model, [7], 6)


def test_with_a_generator_a_prompt_the_batch_does_not_matter(random_model):
    model = random_model()
    prompts = [[5], [17, 80, 3, 9, 12, 44], [60, 61, 62], [5]]

    def sample(rows):
        return generate(
            model,
            [prompts[row] for row in rows],
            max_new_tokens=12,
            stop_ids=[17],
            sampling=Sampling(1.0, top_p=0.9),
            generator=[seeded(0, row) for row in rows],
        )

    together = sample(range(4))
    assert together == [sample([row])[0] for row in range(4)]
    assert together[0] != together[3]
    assert sample([3, 1]) == [together[3], together[1]]


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


def test_prompt_without_a_token_is_refused(random_model):
    with pytest.raises(ValueError, match="no token"):
        generate(random_model(), [[1], []], max_new_tokens=2, stop_ids=[], sampling=GREEDY)
