"""Token counts: those of Python and of the tokenizer itself, row by row, counted again only when something changed."""

import pyarrow as pa
import pytest
from tests.builds import synthetic_release

from medloom.pipelines.tokens import count_tokens
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, SourceError
from medloom.schemas.tables import TOKENS
from medloom.schemas.token_counts import tokenizer_folder, tokens_part


@pytest.fixture
def build(tmp_path) -> Build:
    return Build(synthetic_release(tmp_path, 12))


@pytest.fixture
def tokenizer(tmp_path):
    """A tokenizer made of three sentences, with special tokens and a limit of four tokens that must not count."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]", "[PAD]"], show_progress=False)
    made.train_from_iterator(["A red rectangle on white ground.", "Describe the figure.", "Two were drawn."], trainer)
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    plain = Tokenizer.from_str(made.to_str())
    made.enable_truncation(4)
    made.enable_padding(length=4)
    folder = tmp_path / "My Tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(str(folder))
    return str(folder), plain


def parts(build: Build) -> list[str]:
    return [part for task, print_ in build.tasks() for part in build.example_parts(task, print_)]


def told(build: Build, tokenizer: str) -> dict[str, list[dict]]:
    return {part: build.store.read_table(tokens_part(tokenizer, part)).to_pylist() for part in parts(build)}


def expected(build: Build, length) -> dict[str, list[dict]]:
    """The counts by plain Python over the rows themselves."""
    found = {}
    for part in parts(build):
        found[part] = []
        for row in build.store.read_table(part).to_pylist():
            said = [p for turn in row["turns"] for p in turn["parts"]]
            tokens = sum(length(p["text"]) for p in said if p["text"])
            found[part].append(
                {"example_id": row["example_id"], "tokens": tokens, "media": sum(bool(p["media"]) for p in said)}
            )
    return found


def test_bytes_are_those_of_utf8_of_all_turns(build, tmp_path):
    part = parts(build)[0]
    rows = build.store.read_table(part).to_pylist()
    rows[0]["turns"][1]["parts"][0]["text"] = "Übersicht β \U0001f600"
    rows[1]["turns"] = []
    schema = build.store.read_table(part).schema
    build.store.write_table(part, pa.Table.from_pylist(rows, schema=schema))
    done = count_tokens(build.url)
    found = expected(build, lambda text: len(text.encode()))
    assert told(build, "bytes") == found
    flat = [row for rows in found.values() for row in rows]
    assert (done.rows, done.tokens) == (len(flat), sum(row["tokens"] for row in flat))
    assert (done.media, done.longest) == (sum(r["media"] for r in flat), max(r["tokens"] for r in flat))
    assert build.store.read_table(tokens_part("bytes", part)).schema.equals(TOKENS)


@pytest.mark.slow
def test_a_tokenizer_counts_what_it_encodes_without_special_tokens_or_its_own_limit(build, tokenizer):
    folder, plain = tokenizer
    done = count_tokens(build.url, folder)
    assert done.folder == "tokens/my-tokenizer"
    assert told(build, folder) == expected(build, lambda text: len(plain.encode(text, add_special_tokens=False).ids))
    assert done.longest > 4


def test_only_what_changed_is_counted_again(build, tokenizer):
    first = count_tokens(build.url)
    assert (first.parts, first.up_to_date) == (len(parts(build)), 0)
    again = count_tokens(build.url)
    assert (again.parts, again.up_to_date) == (0, len(parts(build)))
    part = parts(build)[0]
    rows = build.store.read_table(part)
    build.store.write_table(part, rows.slice(1))
    heard = []
    assert count_tokens(build.url, told=heard.append).parts == 1
    assert heard == [part]
    assert told(build, "bytes") == expected(build, lambda text: len(text.encode()))
    folder, _ = tokenizer
    count_tokens(build.url, folder)
    assert count_tokens(build.url, folder).parts == 0


def test_another_tokenizer_under_the_same_name_counts_anew(build, tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder, _ = tokenizer
    count_tokens(build.url, folder)
    other = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=other, unk_token="[UNK]").save_pretrained(folder)
    assert count_tokens(build.url, folder).parts == len(parts(build))
    assert told(build, folder) == expected(build, lambda text: 1)  # no pre-tokenizer: each text is one unknown word


def test_a_damaged_part_is_written_anew_and_one_without_examples_goes(build):
    count_tokens(build.url)
    damaged, gone = parts(build)[:2]
    whole = build.store.read(tokens_part("bytes", damaged))
    build.store.write(tokens_part("bytes", damaged), whole[:100])
    build.store.delete(gone)
    assert count_tokens(build.url).parts == 1
    assert build.store.read(tokens_part("bytes", damaged)) == whole
    assert not build.store.exists(tokens_part("bytes", gone))


def test_folders_are_named_after_tokenizers():
    assert tokenizer_folder("bytes") == "tokens/bytes"
    assert tokenizer_folder("HuggingFaceTB/SmolLM2-135M") == "tokens/huggingfacetb-smollm2-135m"
    assert tokenizer_folder("/somewhere/of mine/Tok.v2/") == "tokens/tok-v2"
    for name in ("./bytes", "Bytes", "", "/", "..."):
        with pytest.raises(ConfigError, match="no folder can be named"):
            tokenizer_folder(name)


def test_what_is_no_tokenizer_or_no_build_is_said(build, tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match="cannot read tokenizer"):
        count_tokens(build.url, str(tmp_path))
    with pytest.raises(SourceError, match="not a build"):
        count_tokens(str(tmp_path / "nowhere"))
