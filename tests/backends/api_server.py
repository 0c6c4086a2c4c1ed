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
    shift = 0
    """Places by which the echoed values are wrong."""

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(body | {"path": self.path})
        try:
            self._send(200, self._chat(body) if "chat" in self.path else self._complete(body))
        except RequestError as error:
            self._send(400, {"error": {"message": error.message, "type": "invalid_request"}})

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
        params = SamplingParams(
            max_tokens=body["max_tokens"],
            temperature=float(body["temperature"]),
            stop=tuple(body.get("stop", ())),
        )
        return self.engine.generate(prompt, params)

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
    handler = type("Bound", (Handler,), {"engine": engine, "seen": seen, **settings})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
