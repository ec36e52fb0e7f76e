"""Label search by token embeddings: near words are near, common words count little."""

import pytest
import torch

from steering.interpret.label_embeddings import LabelEmbeddings, stem, words_of

WORDS = ["ship", "boat", "bread", "cake", "sad", "the"]


@pytest.fixture
def search():
    """Embeddings in which ships and boats are alike, and bread and cakes."""
    torch.manual_seed(0)
    base = torch.randn(60, 32)
    base[1] = base[0] + 0.3 * torch.randn(32)
    base[3] = base[2] + 0.3 * torch.randn(32)

    def encode(word: str) -> list[int]:
        word = word.strip()
        return [WORDS.index(word)] if word in WORDS else [10 + sum(map(ord, word)) % 50]

    labels = ["boat", "bread", "the sad", "", "sad ship"]
    return LabelEmbeddings(base, encode, labels), labels


def test_a_label_that_means_nearly_the_same_comes_first(search):
    embeddings, labels = search
    order = embeddings.similarities("cake").argsort(descending=True).tolist()
    assert labels[order[0]] == "bread"


def test_words_in_common_count_beside_the_meaning(search):
    embeddings, labels = search
    scores = embeddings.similarities("ship")
    assert labels[int(scores.argmax())] == "sad ship"
    assert scores[labels.index("boat")] > scores[labels.index("bread")] + 0.3


def test_an_empty_label_is_like_nothing(search):
    embeddings, labels = search
    assert embeddings.similarities("sad")[labels.index("")] == -1
    assert embeddings.similarities("").max() <= 0


@pytest.mark.parametrize(
    ("text", "words"), [("The sea!", ["sea"]), ("of the", ["of", "the"]), ("l'été — d’or", ["l'été", "d’or"]), ("", [])]
)
def test_words_without_meaning_are_left_out_unless_there_are_no_others(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(("word", "expected"), [("sadness", "sad"), ("cooking", "cook"), ("bus", "bus"), ("is", "is")])
def test_usual_endings_are_taken_off(word, expected):
    assert stem(word) == expected


def test_without_labels_there_is_nothing_to_compare():
    none = LabelEmbeddings(torch.randn(8, 4), lambda word: [len(word) % 8], [])
    assert none.similarities("anything").shape == (0,)
