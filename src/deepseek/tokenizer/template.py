"""Chat templates: rendered in a bounded child process, and blind to what users write.

A template comes with the weights and is not trusted; a message comes from a user and is not
trusted either. Two defences:

* The template runs in jinja2's `ImmutableSandboxedEnvironment` in a child process with limits
  on time and memory. The sandbox alone bounds neither.
* Control tokens are recognised in what the template writes, never in what a message says. A
  private-use mark is put behind each character of a message that could begin a control token,
  and before its beginning if that could complete one which the template began; the rendered
  text is cut at control tokens, which therefore all come from the template; then the marks are
  removed. The tags that templates themselves look for (`</think>`) stay whole:
  they are no control tokens, and a control token that appears by cutting one out of a message
  still carries its mark.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.core.errors import TokenizerError
from deepseek.core.llm import Message
from deepseek.tokenizer.template_process import TemplateProcess

# Used when a checkpoint brings no template: the commonest format of instruction models.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_TEMPLATE_CHARACTERS = 1 << 20
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
PRIVATE_USE = range(0xE000, 0xF8FF)


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a rendered conversation: one control token, or text."""

    text: str
    is_control: bool


class ChatTemplate:
    """One checkpoint's template."""

    def __init__(self, source: str, *, control: Sequence[str], bos: str, eos: str) -> None:
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise TokenizerError(
                f"the chat template has {len(source):,} characters", "the checkpoint is not sane"
            )
        self._process = TemplateProcess(source, bos, eos)
        self._own_characters = frozenset(source).union(bos, eos, *control)
        ordered = sorted(control, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, ordered))})" if ordered else r"(?!)")
        first = "".join(sorted({token[0] for token in ordered}))
        self._ends = tuple({t[i:] for t in ordered for i in range(1, len(t))})
        self._insides = tuple(t[1:] for t in ordered)
        tags = "|".join(re.escape(tag[1:]) for tag in TAGS if tag not in control)
        self._risky = (
            re.compile(f"([{re.escape(first)}])(?!{tags})") if first else re.compile("(?!)")
        )

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[Segment]:
        """Render a conversation and separate the template's control tokens from text.

        Raises:
            TokenizerError: There is no message, or the template fails or exceeds its bounds.
        """
        if not messages:
            raise TokenizerError("the conversation has no message", "give at least one")
        mark = _unused_character(self._own_characters.union(*(m.content for m in messages)))
        rows = [{"role": m.role, "content": self._marked(m.content, mark)} for m in messages]
        text = self._process.render(rows, add_generation_prompt)
        pieces = self._control.split(text)
        # re.split with one group alternates text, control, text …
        segments = [
            Segment(piece if i % 2 else piece.replace(mark, ""), is_control=bool(i % 2))
            for i, piece in enumerate(pieces)
        ]
        return [segment for segment in segments if segment.text]

    def _marked(self, content: str, mark: str) -> str:
        """Content in which no control token can be recognised, wherever it is put.

        Space at the beginning stays there, for templates that strip it.
        """
        marked = self._risky.sub(lambda match: match.group() + mark, content)
        rest = content.lstrip()
        # It may end a control token, or be so short that it fits inside one.
        if rest.startswith(self._ends) or (rest and any(rest in part for part in self._insides)):
            space = len(content) - len(rest)
            return marked[:space] + mark + marked[space:]
        return marked


def _unused_character(used: frozenset[str]) -> str:
    for code in PRIVATE_USE:
        if chr(code) not in used:
            return chr(code)
    raise TokenizerError("a message uses all private-use characters", "it is no ordinary text")
