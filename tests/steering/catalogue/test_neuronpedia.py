"""Neuronpedia exports: import and export."""

import gzip
import json

import pytest

from steering.catalogue.feature import Feature
from steering.catalogue.neuronpedia import read_export, write_export
from steering.errors import BadBundle


def rows(n=3):
    return [Feature(id=f"b/{i}", index=i) for i in range(n)]


def put(folder, kind, *lines, batch=0):
    (folder / kind).mkdir(exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / kind / f"batch-{batch}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def test_statistics_labels_and_examples_are_read_in_our_units(tmp_path):
    put(
        tmp_path,
        "features",
        {"index": "1", "maxActApprox": 8.0, "frac_nonzero": 0.02, "pos_str": ["Ġbridge", "▁red"], "neg_str": ["Ċ"]},
    )
    put(
        tmp_path,
        "explanations",
        {"index": "1", "description": "bridges", "explanationModelName": "some-model"},
        {"index": "1", "description": "later and other", "explanationModelName": "another"},
    )
    put(
        tmp_path,
        "activations",
        {"index": "1", "tokens": ["the", "Ġpier"], "values": [0.0, 2.0]},
        {"index": "1", "tokens": ["a", "Ġbridge"], "values": [1.0, 8.0]},
    )
    _, feature, untouched = read_export(tmp_path, rows(), [1.0, 0.5, 1.0])
    assert (feature.density, feature.max_activation, feature.typical_max) == (0.02, 4.0, 4.0)
    assert feature.top_logits == {"positive": [" bridge", " red"], "negative": ["\n"]}
    assert (feature.label, feature.label_source) == ("bridges", "neuronpedia:some-model")
    assert [(e["text"], e["token"], e["activation"]) for e in feature.examples] == [
        ("a bridge", " bridge", 4.0),
        ("the pier", " pier", 1.0),
    ]
    assert untouched == rows()[2]


def test_a_label_given_here_stays(tmp_path):
    put(tmp_path, "explanations", {"index": "0", "description": "theirs"})
    own = [Feature(id="b/0", index=0, label="ours", label_source="hand")]
    assert read_export(tmp_path, own, [1.0])[0].label == "ours"


def test_what_is_written_is_read_again(tmp_path):
    feature = Feature(
        id="b/1500",
        index=1500,
        label="bridges",
        label_source="neuronpedia:some-model",
        density=0.01,
        max_activation=3.0,
        typical_max=3.0,
        top_logits={"positive": [" a"], "negative": [" b"]},
        examples=[
            {"text": "a b", "token": " b", "at": 1, "activation": 3.0, "tokens": ["a", " b"], "activations": [0.0, 3.0]}
        ],
    )
    write_export(tmp_path, [*rows(), feature], model="m", source="3-b")
    assert (tmp_path / "features" / "batch-1.jsonl.gz").exists()
    empty = [Feature(id=f"b/{i}", index=i) for i in range(1501)]
    assert read_export(tmp_path, empty, [1.0] * 1501)[1500] == feature


def test_an_example_of_which_only_the_strongest_token_is_known_is_cut_around_it(tmp_path):
    example = {"text": "the long bridge is red", "token": " bridge", "at": 2, "activation": 3.0}
    write_export(tmp_path, [Feature(id="b/0", index=0, label="x", examples=[example])], model="m", source="s")
    row = json.loads(gzip.decompress((tmp_path / "activations" / "batch-0.jsonl.gz").read_bytes()))
    assert row["tokens"] == ["the long", " bridge", " is red"]
    assert (row["maxValue"], row["maxValueTokenIndex"]) == (3.0, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"index": "7", "description": "x"}, r"line 1 of explanations/batch-0.* describes feature 7; the SAE has 3"),
        ({"description": "x"}, r"line 1 of explanations/batch-0.* is not an object with an index"),
        ({"index": "1"}, r"line 1 of explanations/batch-0.* is not a row of explanations"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, line, said):
    put(tmp_path, "explanations", line)
    with pytest.raises(BadBundle, match=said):
        read_export(tmp_path, rows(), [1.0] * 3)


def test_a_file_that_is_cut_short_and_a_folder_that_is_none_are_refused(tmp_path):
    with pytest.raises(BadBundle, match="is no export of Neuronpedia"):
        read_export(tmp_path, rows(), [1.0] * 3)
    put(tmp_path, "features", *({"index": "1", "maxActApprox": i} for i in range(500)))
    path = tmp_path / "features" / "batch-0.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadBundle, match="damaged or cut short"):
        read_export(tmp_path, rows(), [1.0] * 3)


def test_an_explanation_that_is_null_is_no_label(tmp_path):
    put(tmp_path, "explanations", {"index": "0", "description": None}, {"index": "0", "description": "bridges"})
    put(tmp_path, "features", {"index": "1", "maxActApprox": None, "frac_nonzero": None, "pos_str": None})
    first, second, _ = read_export(tmp_path, rows(), [1.0] * 3)
    assert (first.label, second.label) == ("bridges", "")
    put(tmp_path, "explanations", {"index": "0", "description": 3})
    with pytest.raises(BadBundle, match="description 3 is no string"):
        read_export(tmp_path, rows(), [1.0] * 3)


def test_rows_of_another_layer_are_left_out(tmp_path):
    folder = tmp_path / "8-res-jb"
    folder.mkdir()
    ours, other = {"modelId": "gpt2-small", "layer": "8-res-jb"}, {"modelId": "gpt2-small", "layer": "9-res-jb"}
    put(
        folder,
        "explanations",
        {"index": "0", "description": "theirs", **other},
        {"index": "0", "description": "ours", **ours},
    )
    put(folder, "features", {"index": "70000", "maxActApprox": 1, **other})
    assert read_export(folder, rows(), [1.0] * 3)[0].label == "ours"
    moved = folder.rename(tmp_path / "labels")
    with pytest.raises(BadBundle, match="describes feature 70000"):  # the first row is of layer 9
        read_export(moved, rows(), [1.0] * 3)
    assert read_export(moved, rows(), [1.0] * 3, source="8-res-jb")[0].label == "ours"


def test_tokens_of_byte_level_tokenizers_are_decoded(tmp_path):
    texts = ["it", "âĢĻ", "s", "Ġa", "ĠcafÃ©", "Ċ", "ðŁĮ", "ī"]
    put(tmp_path, "activations", {"index": "0", "tokens": texts, "values": [0, 0, 0, 0, 5, 0, 0, 1]})
    put(tmp_path, "features", {"index": "0", "maxActApprox": 5, "pos_str": ["ĠcafÃ©", "âĢĻ", "▁red", "naïve"]})
    (feature, *_) = read_export(tmp_path, rows(), [1.0] * 3)
    assert feature.examples[0]["tokens"] == ["it", "’", "s", " a", " café", "\n", "", "🌉"]
    assert feature.top_logits["positive"] == [" café", "’", " red", "naïve"]


def test_text_that_is_decoded_already_stays(tmp_path):
    texts = ["un", " café", " naïve", "▁été", " ’", " ĠX"]
    put(tmp_path, "activations", {"index": "0", "tokens": texts, "values": [0, 0, 0, 0, 5, 0]})
    (feature, *_) = read_export(tmp_path, rows(), [1.0] * 3)
    assert feature.examples[0]["tokens"] == ["un", " café", " naïve", " été", " ’", "  X"]


def test_an_example_without_tokens_is_left_out(tmp_path):
    put(
        tmp_path,
        "activations",
        {"index": "0", "tokens": [], "values": []},
        {"index": "0", "tokens": ["a"], "values": [1.0]},
    )
    assert len(read_export(tmp_path, rows(), [1.0] * 3)[0].examples) == 1
