"""Chat tokenizer: messages and raw text to token ids and back, the same for both engines."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from server.engines.base import EngineFailed
from steering.model.chat_template import EncodedChat, Message, encode_chat


class ChatTokenizer:
    """Part of an engine that needs its tokenizer only."""

    tokenizer: PreTrainedTokenizerFast
    vocab_size: int

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raise EngineFailed for token ids that the embedding has no row for: tokenizers may have more tokens than it."""
        outside = next((i for i in ids if not 0 <= i < self.vocab_size), None)
        if outside is not None:
            raise EngineFailed(
                f"the text has the token {outside}, outside of the model's vocabulary of {self.vocab_size}: the tokenizer "
                "has tokens that the model was not made for"
            )

    def encode_chat(self, messages: list[Message], *, continue_final_message: bool = False) -> EncodedChat:
        """Render a chat up to the start of the assistant's reply, or to the end of its last message. Raises BadChat."""
        return encode_chat(self.tokenizer, messages, continue_final_message=continue_final_message)

    def encode(self, text: str) -> tuple[int, ...]:
        """Tokenize raw text, with the beginning-of-text token first; the template's markers are plain text here."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return (*([bos] if isinstance(bos, int) else []), *ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
