"""The HTTP backend against llama.cpp's own server, on real weights."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepseek.backends.openai_server import ServedModel
from deepseek.core.errors import RequestError
from deepseek.core.llm import Message, SamplingParams
from deepseek.engine.loader import load_engine

pytestmark = [pytest.mark.oracle, pytest.mark.weights]
PROMPT = "Question: What is the capital of France?\nAnswer: The capital of France is"


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(smollm2_path)]
    command += ["--port", str(port), "--n_ctx", "1024", "--n_threads", "2", "--logits_all", "true"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/models", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.25)
        yield address
    finally:
        server.terminate()
        server.wait()


def test_it_answers_like_our_engine_and_its_wrong_echo_is_noticed(
    url: str, smollm2_path: Path
) -> None:
    served = ServedModel(url, context_window=1_024, concurrency=1)
    engine, _ = load_engine(str(smollm2_path), dtype="float32")
    params = SamplingParams(max_tokens=2)
    assert served.generate(PROMPT, params).text == engine.generate(PROMPT, params).text
    assert served.generate([Message("user", "Say hello.")], params).text
    # llama-cpp-python reports for each token the distribution after it, not before.
    with pytest.raises(RequestError, match="misplaces the log-probabilities"):
        served.score(PROMPT, (" Paris", " London, England"))
