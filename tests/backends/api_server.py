"""A small HTTP server that speaks OpenAI's API for the tiny engine, on a real socket."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deepseek.core.errors import RequestError
from deepseek.core.llm import Completion, Message, Prompt, SamplingParams
from deepseek.engine.engine import Engine


class Handler(BaseHTTPRequestHandler):
    engine: Engine
    seen: list[dict[str, Any]]
    can_echo = True
    failures: list[int]
    """Statuses with which it answers first."""
    breaks_after = 10**9
    """Pieces after which it drops the connection."""
    goes_on: threading.Event
    """Awaited before each piece."""
    streams: list[str]
    """How streamed answers ended."""
    n_left_out = 0
    """Texts for which it gives no vector."""
    shift = 0
    """Places by which the echoed values are wrong."""

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body | {"path": self.path})
        if self.failures:
            self._send(self.failures.pop(0), {"error": {"message": "not now", "type": "server"}})
            return
        try:
            if body.get("stream"):
                self._stream(body)
                return
            if "embeddings" in self.path:
                self._send(200, self._embed(body))
                return
            self._send(200, self._chat(body) if "chat" in self.path else self._complete(body))
        except RequestError as error:
            self._send(400, {"error": {"message": error.message, "type": "invalid_request"}})

    def _embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Vectors in another order than the texts, and of another length than 1."""
        made = (3 * self.engine.embed(body["input"])).tolist()
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(made)]
        return {"object": "list", "model": "tiny", "data": data[self.n_left_out :][::-1]}

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        turns = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        completion = self._generate(turns, body)
        message = {"role": "assistant", "content": completion.text}
        return self._answer(completion, {"message": message})

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        completion = self._generate(body["prompt"], body)
        choice: dict[str, Any] = {"text": completion.text}
        if self.can_echo and body.get("echo"):
            choice["logprobs"] = self._echo(body["prompt"])
        elif self.can_echo and body.get("logprobs"):
            ids = self.engine.encode(body["prompt"])
            row = self.engine.logits(ids)[-1].log_softmax(-1)
            choice["logprobs"] = {"token_logprobs": [float(row[completion.token_ids[0]])]}
        return self._answer(completion, choice)

    def _echo(self, text: str) -> dict[str, Any]:
        tokenizer = self.engine.tokenizer
        ids = tokenizer.encode(text)
        rows = self.engine.logits(ids).log_softmax(-1)
        texts = [tokenizer.token_text(i) for i in ids]
        offsets = [sum(map(len, texts[:n])) for n in range(len(texts))]
        values = [None, *(float(rows[n - 1 + self.shift, i]) for n, i in enumerate(ids) if n)]
        tops = [None]
        for row in rows[:-1]:
            best = int(row.argmax())
            tops.append({tokenizer.token_text(best): float(row[best])})
        return {
            "tokens": [*texts, "!"],
            "token_logprobs": [*values, -1.0],
            "text_offset": [*offsets, len(text)],
            "top_logprobs": [*tops, {"!": -1.0}],
        }

    def _generate(self, prompt: Prompt, body: dict[str, Any]) -> Completion:
        return self.engine.generate(prompt, self._params(body))

    def _params(self, body: dict[str, Any]) -> SamplingParams:
        return SamplingParams(
            max_tokens=body["max_tokens"],
            temperature=float(body["temperature"]),
            stop=tuple(body.get("stop", ())),
        )

    def _stream(self, body: dict[str, Any]) -> None:
        """Server-sent events; each answer of a conversation begins with a thought."""
        is_chat = "chat" in self.path
        prompt: Prompt = body.get("prompt", "")
        if is_chat:
            prompt = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        answer = self.engine.stream(prompt, self._params(body))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        n_pieces = 0
        try:
            if is_chat:
                self._event({"delta": {"reasoning_content": "Well."}, "finish_reason": None})
            for delta in answer:
                self.goes_on.wait(60)
                if n_pieces == self.breaks_after:
                    self.streams.append("broken")
                    return
                n_pieces += 1
                said = {"delta": {"content": delta.text}} if is_chat else {"text": delta.text}
                end = delta.completion
                self._event(said | {"finish_reason": end.finish_reason if end else None})
                if end is not None:
                    self._event(None, end.n_prompt_tokens)
            self.wfile.write(b"data: [DONE]\n\n")
            self.streams.append("whole")
        except OSError:
            self.streams.append("left")
        finally:
            answer.close()  # type: ignore[attr-defined]

    def _event(self, choice: dict[str, Any] | None, n_prompt: int = 0) -> None:
        about: dict[str, Any] = {"id": "1", "object": "chunk", "created": 1, "model": "tiny"}
        about["choices"] = [] if choice is None else [choice | {"index": 0}]
        if choice is None:
            about["usage"] = {"prompt_tokens": n_prompt, "completion_tokens": 1, "total_tokens": 1}
        self.wfile.write(f"data: {json.dumps(about)}\n\n".encode())
        self.wfile.flush()

    def _answer(self, completion: Completion, choice: dict[str, Any]) -> dict[str, Any]:
        reason = {"finish_reason": completion.finish_reason, "index": 0}
        n = completion.n_prompt_tokens
        used = {"prompt_tokens": n, "completion_tokens": 1, "total_tokens": n + 1}
        about = {"id": "1", "object": "completion", "created": 1, "model": "tiny"}
        return about | {"choices": [choice | reason], "usage": used}

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(engine: Engine, **settings: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a running server, and the requests it has seen."""
    seen: list[dict[str, Any]] = []
    own: dict[str, Any] = {"engine": engine, "seen": seen, "failures": [], "streams": []}
    own["goes_on"] = threading.Event()
    own["goes_on"].set()
    handler = type("Bound", (Handler,), own | settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
