"""From a place in a document to suggestions: what is known already, else the engine, as fast as typing allows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from engine.request import CompletionRequest, CompletionStats
from lsp_server.ask import Answer, Ask, Engine, Item
from lsp_server.cache import Hit, SuggestionCache, typed_since
from lsp_server.generation import Generation
from lsp_server.items import branching, item_of, steady
from lsp_server.options import Options
from lsp_server.outcomes import Kind, Outcome
from lsp_server.pace import Pace
from lsp_server.suggestion import Shown, partial, reason_not_to_ask, shape, stop_rules
from lsp_server.view import View

SURVEY_NODES = 24  # of the tree that is grown to find out what else the target might say
GRACE_SECONDS = 0.06  # in which another request may take over what a cancelled one had begun
ALONG_SECONDS = 0.4  # the same where the typing goes along with it


class Completer:
    """Answers requests for all documents. For each, the engine works on one generation: that of its latest place."""

    def __init__(
        self, engine: Engine, busy: Callable[[bool], None], finished: Callable[[CompletionStats], None]
    ) -> None:
        """`busy` is called when the engine begins to work for this server, and when it has nothing more to do.

        `finished` is called with the figures of each completion that has run to its end.
        """
        self.options = Options()
        self.pace = Pace()
        self.cache = SuggestionCache()
        self._engine = engine
        self._busy = busy
        self._finished = finished
        self._asking: dict[str, asyncio.Task[Answer]] = {}
        self._live: dict[str, Generation] = {}
        self._places: dict[str, View] = {}  # where somebody types in each document

    async def complete(self, ask: Ask) -> Answer:
        """Answer a request; an older one for the same document ends without suggestions."""
        uri = ask.view.uri
        self._supersede(uri)
        task = self._asking[uri] = asyncio.ensure_future(self._answer(ask))
        try:
            return await task
        except asyncio.CancelledError:
            if not _is_cancelled():
                return Answer(ask.outcome("superseded"))
            asyncio.get_running_loop().call_later(GRACE_SECONDS, self._abandon, uri, self._live.get(uri))
            raise
        finally:
            if self._asking.get(uri) is task:
                del self._asking[uri]
            del task  # it holds its exception, which holds this frame: such a ring would live on, with all the lines

    def changed(self, uri: str, view: View) -> None:
        """The text of a document has changed up to `view`: stop the work that it contradicts."""
        self.pace.keystroke(time.monotonic())
        self._places[uri] = view
        live = self._live.get(uri)
        if live is not None:
            live.touched = time.perf_counter()
            self._check(live)

    def close(self, uri: str) -> None:
        """A document was closed: nothing of it is needed any more."""
        self.cache.forget(uri)
        self._places.pop(uri, None)
        for work in (self._live.get(uri), self._asking.get(uri)):
            if work is not None:
                work.cancel()

    def stop(self) -> None:
        """Stop all work, and forget what was made."""
        for live in list(self._live.values()):
            live.cancel()
        self.cache.clear()

    def _supersede(self, uri: str) -> None:
        """End the request before; in a frame of its own, or each would hold the one before it."""
        older = self._asking.get(uri)
        if older is not None:
            older.cancel()

    # --- one request -------------------------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> Answer:
        view = ask.view
        self._places[view.uri] = view
        hit = self.cache.find(view)
        live = self._live.get(view.uri)
        if live is not None and (hit is None or hit.generation is not live) and not _goes_along(live, view):
            live.cancel()
        ask.watch.mark("cache")
        if hit is None and await self._first_words(view):
            hit = self.cache.find(view)
            ask.watch.mark("waited")
        if hit is None:
            refusal = self._refusal(ask)
            if refusal is not None:
                return refusal
            if not ask.invoked:
                await asyncio.sleep(self._delay())
                ask.watch.mark("debounce")
            return await self._show(Hit(self._generate(ask), "", ""), ask, "answered")
        if hit.branch:
            return await self._show(self._follow(hit, ask), ask, "branch")
        known = hit.generation.settled and len(hit.text) > len(hit.typed) and not ask.invoked
        through: Kind = "prefetched" if hit.generation.ahead and not hit.generation.shown else "typed through"
        return await self._show(hit, ask, through if known else "answered")

    async def _first_words(self, view: View) -> bool:
        """Wait for the first words of what the engine is about to say, if the typing may turn out to go along with it.

        Stopping it for each key would have a slow engine begin anew with each, and come to nothing before a pause.
        """
        live = self._live.get(view.uri)
        if live is None or live.text or live.done or not typed_since(live.view, view):
            return False
        while not live.text and not live.done:
            await live.grown(None)
        return True

    def _refusal(self, ask: Ask) -> Answer | None:
        """Say why the engine is not to be asked, if there is a reason."""
        reason = "" if ask.invoked else reason_not_to_ask(ask.view, ask.edit)
        if reason:
            return Answer(ask.outcome("rule", reason))
        before = self.cache.at(ask.view)
        if before is not None and before.done and not ask.invoked:
            return Answer(self._nothing(ask, before, shape(before.text, before.view, done=True)))
        if self._engine.ready:
            return None
        state = self._engine.state
        if state.kind == "failed":
            return Answer(ask.outcome("engine error", state.message))
        return Answer(ask.outcome("loading", f"{state.phase} {state.done}/{state.total}" if state.total else ""))

    def _delay(self) -> float:
        fixed = self.options.debounce_ms
        return self.pace.delay() if fixed is None else fixed / 1000

    async def _show(self, hit: Hit, ask: Ask, kind: Kind) -> Answer:
        """Wait for what is worth showing, and make items of it."""
        generation = hit.generation
        shown = await self._worth_showing(generation, len(hit.typed), at_once=kind == "branch")
        ask.watch.mark("engine")
        if shown.complete and not generation.done:
            generation.suffice()
        if generation.error and not shown.text:
            return Answer(ask.outcome("engine error", generation.error))
        if generation.broken and not generation.error:
            return Answer(ask.outcome("superseded", "the typing went another way"))
        shown = steady(generation, shown)
        item = item_of(hit, shown, ask.view)
        if item is None:
            return Answer(self._nothing(ask, generation, shown))
        generation.shown = shown.text
        items = [item]
        if ask.invoked and shown.complete:
            await self._add_others(items, hit, ask)
        if shown.complete:
            self._prefetch(shown, hit, ask)
        return Answer(ask.outcome(kind, "" if shown.complete else "more to come", len(item.text)), tuple(items))

    async def _worth_showing(self, generation: Generation, typed: int, *, at_once: bool = False) -> Shown:
        """Wait until all is there that will be shown or, from the deadline on, until anything is."""
        deadline = 0.0 if at_once else generation.started + self.options.deadline_ms / 1000
        while True:
            shown = shape(generation.text, generation.view, generation.done)
            left = deadline - time.perf_counter()
            if shown.complete:
                return shown
            early = shown if at_once else partial(shown)
            if left <= 0 and len(early.text) > typed:
                return early
            await generation.grown(left if left > 0 else None)

    def _nothing(self, ask: Ask, generation: Generation, shown: Shown) -> Outcome:
        if generation.finish_reason == "declined":
            return ask.outcome("declined", "the drafter is not sure of what comes")
        return ask.outcome("nothing", shown.reason or "all of it has been typed")

    async def _add_others(self, items: list[Item], hit: Hit, ask: Ask) -> None:
        """Add other ways to go on from here, for an explicit request: what the tree has verified, then continued.

        Those that are not there by the deadline are left out.
        """
        seconds = ask.watch.began + self.options.deadline_ms / 1000 - time.perf_counter()
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                for text in list(hit.generation.others) or await self._other_texts(hit, ask):
                    if len(items) == self.options.max_candidates:
                        break
                    item = await self._other(text, hit, ask)
                    if item is not None and item.text not in [each.text for each in items]:
                        items.append(item)
        except TimeoutError:
            return

    async def _other(self, text: str, hit: Hit, ask: Ask) -> Item | None:
        """Return what a hit becomes if it begins with `text`."""
        other = hit.generation.others.get(text)
        if other is None or other.broken:
            other = self._generate(ask, hit.generation.view, hit.typed, text, keep=False)
            hit.generation.others[text] = other
        shown = await self._worth_showing(other, len(hit.typed))
        if not other.done:
            other.enough = shown.complete
            other.cancel()
        return item_of(Hit(other, hit.typed, text, hit.closed), shown, ask.view)

    async def _other_texts(self, hit: Hit, ask: Ask) -> list[str]:
        """Return how else the text of a hit may begin, the likeliest first; look again where too few are known."""
        origin, typed = hit.generation, len(hit.typed)
        line = typed + len(origin.text[typed:].split("\n")[0])
        texts = branching(origin.text, origin.branches, typed, line)
        if len(texts) + 1 < self.options.max_candidates and self._engine.tells_branches:
            again = self._generate(ask, keep=False, budget=SURVEY_NODES)
            try:
                await self._worth_showing(again, 0)
            finally:
                again.cancel()
            found = branching(again.text, again.branches, 0, line - typed)
            texts += [hit.typed + text for text in found]
        return list(dict.fromkeys(text for text in texts if not origin.text.startswith(text)))

    # --- the engine's work -------------------------------------------------------------------------------------------

    def _follow(self, hit: Hit, ask: Ask) -> Hit:
        """Make the branch a suggestion of its own: its text is there at once, what follows it is asked for."""
        if self._engine.ready:
            generation = self._generate(ask, hit.generation.view, hit.typed, hit.text)
        else:
            generation = Generation.silent(hit.generation.view, hit.text)
            self.cache.add(generation)
        return Hit(generation, hit.typed, hit.text, hit.closed, branch=True)

    def _generate(
        self,
        ask: Ask,
        origin: View | None = None,
        typed: str = "",
        text: str = "",
        *,
        ahead: bool = False,
        keep: bool = True,
        budget: int | None = None,
    ) -> Generation:
        """Start what belongs at `origin`, by default where is asked, in place of what the engine did for the document.

        `text` is known to follow there; the document holds `typed` of it. `keep`: let later requests find it.
        `budget`: of draft nodes, None for what is fastest.
        """
        origin = origin or ask.view
        live = self._live.get(origin.uri)
        if live is not None:
            live.cancel()
        place = origin if ahead else ask.view.behind(text[len(typed) :]) if text else ask.view
        request = CompletionRequest(
            prefix=place.before,
            suffix=place.after,
            path=ask.path,
            language=origin.language,
            context=tuple(ask.context()),
            max_tokens=self.options.max_tokens,
            stop=stop_rules(origin),
            budget=budget,
            branches=True,
            min_confidence=0.0 if ask.invoked or text else self.options.min_confidence,
        )
        generation = Generation(origin, text, ahead)
        if keep:
            self.cache.add(generation)
        self._live[origin.uri] = generation
        self._busy(True)
        generation.run(self._engine.stream(request, origin.uri), self._check, self._ended)
        return generation

    def _check(self, generation: Generation) -> None:
        """Stop a generation that the typing has contradicted, or that has said all that will be shown of it.

        Either may show only when its text comes. A request that waits finds out the second by itself.
        """
        uri = generation.view.uri
        place = self._places.get(uri)
        if place is not None and not _goes_along(generation, place):
            generation.cancel()
            return
        alone = generation.finish_reason is None and uri not in self._asking
        if alone and shape(generation.text, generation.view, done=False).complete:
            generation.suffice()

    def _ended(self, generation: Generation) -> None:
        if generation.first_text_ms is not None:
            self.pace.answered(generation.first_text_ms / 1000)
        if generation.stats is not None:
            self._finished(generation.stats)
        if self._live.get(generation.view.uri) is generation:
            del self._live[generation.view.uri]
        if not self._live:
            self._busy(False)

    def _prefetch(self, shown: Shown, hit: Hit, ask: Ask) -> None:
        """Begin what would follow if the suggestion were accepted.

        Where it ends its line, that is on the next line: that nothing follows on this one, the model has said already.
        """
        if not self.options.prefetch or shown.covers or hit.closed or not self._engine.ready:
            return
        place = ask.view.behind(shown.text[len(hit.typed) :])
        if not place.line_after.strip() and hit.generation.finish_reason != "length":
            if self.cache.at(place) is None:
                self.cache.add(Generation.silent(place))
            place = place.next_line()
        if self.cache.at(place) is None and self.cache.find(place) is None and not reason_not_to_ask(place, None):
            self._generate(ask, place, ahead=True)

    def _abandon(self, uri: str, generation: Generation | None) -> None:
        """Stop what a cancelled request had begun, unless another one waits for it now, or the typing goes along."""
        if generation is None or self._live.get(uri) is not generation or uri in self._asking:
            return
        left = generation.touched + ALONG_SECONDS - time.perf_counter()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._abandon, uri, generation)
        else:
            generation.cancel()


def _goes_along(generation: Generation, view: View) -> bool:
    """Whether what has been typed agrees with what the engine is saying, as far as both are known."""
    found = typed_since(generation.view, view)
    if found is None:  # of text computed ahead of what is shown, the document does not hold the beginning yet
        return typed_since(view, generation.view) is not None
    typed = found[0]
    return generation.text.startswith(typed) or typed.startswith(generation.text)


def _is_cancelled() -> bool:
    """Whether the running task itself was asked to end, not only what it waits for."""
    this = asyncio.current_task()
    return this is not None and this.cancelling() > 0
