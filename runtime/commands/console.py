"""A chat in a terminal: lines in, answers out, commands with a slash."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..chat import Chat, saved_messages
from ..errors import Idefics2OnnxError, PromptError
from ..generation.answer import Generation
from ..images.source import open_image
from ..outside.download import as_typed

HELP = """\
/image PATH   show an image with your next message; several times for several
/undo         take the last message and its answer back
/reset        forget everything
/save PATH    write the conversation as JSON, images inside; /save --force PATH in place of any file
/load PATH    go on with a conversation that was saved
/stats        what the last answer took
/quit         leave; so does Ctrl-D
Ctrl-C stops an answer and keeps what was said."""


class Console:
    """Reads what a person types and talks to a chat.

    Attributes:
        images: shown with the next message.
    """

    def __init__(self, chat: Chat, write: Callable[[str], object], remark: Callable[[str], object], allow_urls: bool) -> None:
        """`write` takes pieces of answers, `remark` whole lines about them; `allow_urls`: an image that is typed may be a URL."""
        self._chat, self._write, self._remark, self._allow_urls = chat, write, remark, allow_urls
        self.images: list[Any] = []
        self._last: Generation | None = None

    def take_all(self, read: Callable[[], str]) -> None:
        """Take lines until /quit or the end of the input."""
        while True:
            try:
                line = read()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._remark("(/quit or Ctrl-D leaves)")
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            if line.strip():
                self.take(line)

    def take(self, line: str) -> None:
        """One line: a command or a message. What is wrong with it is said, and the chat goes on."""
        try:
            text = line.strip()
            if text.startswith("/"):
                self._command(*text[1:].split(maxsplit=1))
            else:  # a space in front parts a text that goes on from the answer
                self._message(line.rstrip() if self._chat.completes else text)
        except Idefics2OnnxError as error:
            self._remark(f"Error: {error}")
        except KeyboardInterrupt:
            self._remark(" [stopped]")

    def show(self, path: str) -> None:
        """Keep an image for the next message; ImageError if it is none."""
        self.images.append(open_image(path, as_typed(path) if self._allow_urls else False))

    def _message(self, text: str) -> None:
        before = len(self._chat.messages)
        stream = self._chat.stream(text, self.images or None)
        try:
            with stream:
                for piece in stream:
                    self._write(piece)
                self._write("\n")
            if stream.result.finish_reason == "length":
                self._remark(f"[cut off at {len(stream.result.token_ids)} tokens; --max-new-tokens allows more]")
        finally:
            self._last = stream.result
            if len(self._chat.messages) > before:  # else the pictures wait for the next message
                self.images = []

    def _command(self, name: str = "", argument: str = "") -> None:
        force = name == "save" and argument.split(maxsplit=1)[:1] == ["--force"]
        argument = (argument.removeprefix("--force") if force else argument).strip().strip("\"'")
        if name in ("image", "save", "load") and not argument:
            raise PromptError(f"/{name} needs a path. Write /{name} PATH.")
        path = os.path.expanduser(argument)  # noqa: PTH111  unlike Path's, it leaves a user it does not know alone
        match name:
            case "image":
                self.show(path)
                self._remark(f"[image {len(self.images)} of the next message]")
            case "undo":
                self._chat.undo()
                self._remark(f"[{self._turns()} left]")
            case "reset":
                self._chat.reset()
                self.images, self._last = [], None
                self._remark("[empty]")
            case "save":
                self._save(path, force)
                self._remark(f"[saved to {path}]")
            case "load":
                self._chat.load(path)
                self._remark(f"[{self._turns()}]")
            case "stats":
                if self._last is None:
                    raise PromptError("There is no answer yet. Ask something first.")
                for line in self._last.timings.lines():
                    self._remark(line)
            case "help":
                self._remark(HELP)
            case _:
                raise PromptError(f"There is no command /{name}. /help lists them.")

    def _save(self, path: str, force: bool) -> None:
        """Write the conversation, over a chat that was saved before but over no other file unless by force."""
        if not force and os.path.isfile(path):  # noqa: PTH113  for the same reason
            try:
                saved_messages(path)
            except PromptError as error:
                raise PromptError(
                    f"{path} is there and is no saved chat. Choose another file, or overwrite it: /save --force {path}"
                ) from error
        self._chat.save(path)

    def _turns(self) -> str:
        count = sum(message["role"] == "user" for message in self._chat.messages)
        return f"{count} turn{'' if count == 1 else 's'}"
