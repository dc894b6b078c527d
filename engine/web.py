"""`treeline chat --web`: a page for this machine's browsers, built with Gradio. Nothing of it comes from elsewhere."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine.cli_engine import Streaming, model_name
from engine.config import EngineConfig
from engine.conversation import NO_CHAT_MODEL, Asking, Conversation, ask
from engine.errors import TreelineError
from engine.extras import installing
from engine.request import SamplingParams
from engine.terminal import stats_line

_HOST = "127.0.0.1"
_REDRAW_SECONDS = 0.05  # a browser that redraws for each token comes to nothing else, such as a click on Stop
_FONTS = ("system-ui", "sans-serif")  # those of Gradio's themes would be fetched from elsewhere
_MONOSPACE = ("ui-monospace", "monospace")
_WITHOUT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}


def run(
    engine: Streaming, settings: EngineConfig, asking: Asking, conversation: Conversation, port: int | None
) -> None:
    """Serve the page until Ctrl-C. Raises TreelineError: no Gradio, or the port is taken."""
    os.environ.update(_WITHOUT)
    try:
        gradio: Any = importlib.import_module("gradio")
    except ImportError:
        raise TreelineError(f"the web chat needs the extra `web`: {installing('web')}") from None
    page = Page(engine, model_name(settings), asking, conversation)
    theme = gradio.themes.Default(font=_FONTS, font_mono=_MONOSPACE)
    try:
        _, where, _ = page.build(gradio).launch(
            server_name=_HOST,
            server_port=port,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            pwa=False,
            footer_links=[],
            theme=theme,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise TreelineError(f"port {port or '7860 to 7959'} is taken: choose another --port ({error})") from None
    print(f"Chat at {where} Ctrl-C ends it.", flush=True)
    page.wait()


@dataclass(slots=True)
class Tab:
    """What a browser tab is about: every one has its own."""

    answering: bool = False
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """The page: what stands on it, and what its controls do. Every browser tab has a conversation of its own."""

    engine: Streaming
    model: str
    asking: Asking
    start: Conversation

    def build(self, gr: Any) -> Any:
        """Lay the page out."""
        with gr.Blocks(title="Treeline", analytics_enabled=False, fill_height=True) as blocks:
            conversation = gr.State(self.start)
            tab = gr.State(Tab())
            gr.Markdown(f"## Treeline\nModel: `{self.model}`" + (f"\n\n{NO_CHAT_MODEL}" if self.asking.plain else ""))
            with gr.Row():
                with gr.Column(scale=3):
                    history = gr.Chatbot(
                        show_label=False, height=520, elem_id="history", buttons=["copy"], feedback_options=None
                    )
                    message = gr.Textbox(
                        show_label=False, placeholder="Message", lines=2, submit_btn=True, elem_id="message"
                    )
                    with gr.Row():
                        stop = gr.Button("Stop", elem_id="stop")
                        clear = gr.Button("Clear", elem_id="clear")
                    statistics = gr.Markdown("", elem_id="statistics")
                with gr.Column(scale=1):
                    controls = self._controls(gr)
            outputs = [message, history, conversation, statistics]
            message.submit(self.asked, [tab], queue=False)
            message.submit(self.say, [tab, message, conversation, *controls], outputs, concurrency_limit=1)
            stop.click(self.stop, [tab], queue=False)
            for cleared in (clear.click, history.clear):
                cleared(self.clear, [conversation], outputs[1:])
        return blocks

    def _controls(self, gr: Any) -> list[Any]:
        sampling = self.asking.sampling
        return [
            gr.Textbox(self.start.system, label="System message", lines=3),
            gr.Slider(0, 2, sampling.temperature, step=0.05, label="Temperature"),
            gr.Slider(0.05, 1, sampling.top_p, step=0.05, label="Top p"),
            gr.Slider(0, 200, sampling.top_k, step=1, label="Top k (0: all)"),
            gr.Slider(1, 2, sampling.repetition_penalty, step=0.05, label="Repetition penalty"),
            gr.Slider(1, 8192, self.asking.max_tokens, step=1, label="Most tokens"),
            gr.Number(sampling.seed, label="Seed", precision=0, minimum=0),
        ]

    def asked(self, tab: Tab) -> None:
        """A message was sent; it may have to wait for the answers that other tabs get."""
        tab.stopped = False

    def stop(self, tab: Tab) -> None:
        """End the answer that this tab gets or waits for."""
        tab.stopped = True
        if tab.answering:
            self.engine.cancel()

    def say(
        self,
        tab: Tab,
        message: str,
        conversation: Conversation,
        system: str,
        temperature: float,
        top_p: float,
        top_k: float,
        penalty: float,
        max_tokens: float,
        seed: float,
    ) -> Iterator[tuple[str, list[dict[str, str]], Conversation, str]]:
        """Answer a message: yield the message box, the history, the conversation and the statistics as they change."""
        conversation = replace(conversation, system=system)
        if not message.strip() or tab.stopped:
            yield message, turns(conversation), conversation, ""
            return
        notices, text, line, drawn = "", "", "", 0.0
        try:
            sampling = SamplingParams(temperature, top_p, int(top_k), penalty, int(seed or 0))
            asking = replace(self.asking, max_tokens=int(max_tokens), sampling=sampling)
            tab.answering = True
            for piece in ask(self.engine.stream, conversation, message, asking):
                text += piece.text
                notices += f"{piece.notice} " if piece.notice else ""
                if piece.conversation is not None:
                    line = stats_line(piece.stats) if piece.stats else ""
                    yield "", turns(piece.conversation), piece.conversation, notices + line
                elif time.monotonic() - drawn > _REDRAW_SECONDS:
                    drawn = time.monotonic()
                    yield "", turns(conversation, message, text), conversation, notices
        except TreelineError as error:
            yield message, turns(conversation), conversation, f"**{error}**"
        finally:
            tab.answering = False

    def clear(self, conversation: Conversation) -> tuple[list[dict[str, str]], Conversation, str]:
        """Forget what was said; the system message stays."""
        return [], Conversation(conversation.system), ""

    def wait(self) -> None:
        """Return at Ctrl-C."""
        import threading

        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


def turns(conversation: Conversation, question: str | None = None, answer: str = "") -> list[dict[str, str]]:
    """Return what the history shows: all exchanges, and one that is in progress."""
    pairs = [(each.question, each.answer) for each in conversation.exchanges]
    if question is not None:
        pairs.append((question, answer))
    return [
        {"role": role, "content": content}
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
