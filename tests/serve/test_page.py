"""The page to chat, in a browser."""

import threading

from llmstages.model.decoding import Decoder

PHONE = {"width": 360, "height": 640}
NAME = "<i>tiny</i> & \"all'"


def answer_of(server, *said):
    """What the server answers to a conversation, user first."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    said = server.call(
        "POST", "/v1/chat/completions", {"messages": messages}, Authorization="Bearer hush"
    )[2]
    return said["choices"][0]["message"]["content"]


def test_a_conversation_on_a_phone(browser, serving, instruct_run, monkeypatch):
    gate, step = threading.Event(), Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda *given: gate.wait(20) and step(*given))
    monkeypatch.setenv("TINY_KEY", "hush")
    settings = {"name": NAME, "api_key_env": "TINY_KEY", "max_new_tokens": 8}
    with serving(instruct_run, **settings) as server:
        page = browser.new_page(viewport=PHONE, color_scheme="dark")
        asked, wrong = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: "Policy" in said.text and wrong.append(said.text))
        page.goto(server.url)
        assert page.inner_text("h1") == page.title() == NAME
        colours = page.evaluate(
            "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
        )
        assert sum(map(int, colours[0][4:-1].split(","))) > 600
        assert sum(map(int, colours[1][4:-1].split(","))) < 150

        # Without the key, then with it.
        question = "<b>What</b> is x?"
        page.fill("#text", question)
        page.press("#text", "Enter")
        page.wait_for_selector(".error")
        assert page.input_value("#text") == question
        page.fill("#secret", "hush")
        page.press("#secret", "Enter")

        # Stopped, and that ends it on the server too.
        page.click("#send")
        server.wait_until(lambda: server.service.engine.running == 1)
        assert page.is_visible("#stop")
        assert not page.is_visible("#send")
        page.click("#stop")
        page.wait_for_selector("#send")
        gate.set()
        server.wait_until(lambda: server.service.engine.running == 0)
        page.click("#anew")

        # An answer as the endpoint gives it, with nothing taken for markup.
        page.fill("#text", question)
        page.click("#send")
        page.wait_for_selector("#send")
        assert page.text_content(".user") == question
        answer = answer_of(server, question)
        assert page.text_content(".assistant") == answer

        # More than the model reads: the oldest turns are left out.
        for _ in range(4):
            page.fill("#text", question)
            page.click("#send")
            page.wait_for_selector("#send")
        assert page.locator(".note", has_text="no longer read").count() >= 1
        page.fill("#text", "word " * 100)
        page.click("#send")
        page.wait_for_selector(".error")
        assert "the model reads 64 tokens" in page.text_content(".error")

        assert page.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]
        box = page.locator("#send").bounding_box()
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= PHONE["height"]
        assert all(url.startswith(server.url) for url in asked)
        assert wrong == []
        page.close()
