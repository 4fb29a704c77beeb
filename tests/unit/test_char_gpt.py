import importlib.util
import logging
import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hookline.config import load_config
from hookline.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "examples" / "char_gpt"


@pytest.fixture(scope="module")
def char_gpt():
    spec = importlib.util.spec_from_file_location("char_gpt_example", FOLDER / "char_gpt.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def library(char_gpt, monkeypatch, tmp_path):
    """A standard library of 20 files, each of one letter; two of them are for evaluation."""
    for number, letter in enumerate("abcdefghijklmnopqrst"):
        (tmp_path / f"m{number:02}.py").write_text(letter * 50)
    monkeypatch.setattr(char_gpt.os, "__file__", str(tmp_path / "os.py"))
    char_gpt._standard_library.cache_clear()
    yield tmp_path
    char_gpt._standard_library.cache_clear()


@pytest.fixture
def model(char_gpt):
    torch.manual_seed(0)
    return char_gpt.GPT(num_layers=1, width=16, context=8, num_heads=2)


def test_text_survives_encoding_and_the_rest_becomes_one_unknown_character(char_gpt):
    text = "\tdef f(x):\n    return '~' #" + "".join(map(chr, range(32, 127)))
    assert char_gpt.decode(char_gpt.encode(text)) == text
    assert char_gpt.decode(char_gpt.encode("a\x00é漢😀\x7fb")) == "a" + 5 * char_gpt.UNKNOWN + "b"
    assert len(set(char_gpt.VOCABULARY)) == len(char_gpt.VOCABULARY) == 98


def test_an_untrained_model_guesses_evenly(char_gpt):
    torch.manual_seed(0)
    model = char_gpt.GPT()
    tokens = torch.randint(98, (4, 64))
    loss = model({"tokens": tokens, "targets": torch.randint(98, (4, 64))})
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(98), abs=0.1)
    assert model.eval()({"tokens": tokens, "targets": tokens}).ndim == 0


def test_a_prediction_depends_on_no_later_character(char_gpt, model):
    tokens = char_gpt.encode("import o").long()[None]
    changed = tokens.clone()
    changed[0, 5] = 3
    before, after = model.logits(tokens), model.logits(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_the_model_learns_and_writes_what_it_learned(char_gpt, model):
    tokens = char_gpt.encode("abcabcabca").long()
    batch = {"tokens": tokens[None, :8], "targets": tokens[None, 1:9]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert model.generate("abc", 4, temperature=0.1) == "abcabca"


def test_a_model_begins_small_where_a_block_adds_to_the_stream(char_gpt):
    block = char_gpt.GPT(num_layers=2).blocks[0]
    assert block.mlp_in.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.mlp_out.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_dropout_acts_in_training_only(char_gpt):
    model = char_gpt.GPT(num_layers=1, width=16, context=8, num_heads=2, dropout=0.5)
    tokens = torch.arange(8)[None]
    assert not torch.equal(model.logits(tokens), model.logits(tokens))
    model.eval()
    assert torch.equal(model.logits(tokens), model.logits(tokens))


def test_a_width_that_heads_do_not_share_evenly_is_refused(char_gpt):
    with pytest.raises(ConfigError, match=r"GPT\.width: expected a multiple of num_heads \(4\), got 30"):
        char_gpt.GPT(width=30)


def test_generating_is_repeatable_and_leaves_mode_and_random_state_alone(model):
    model.train()
    before = torch.get_rng_state(), random.getstate()
    text = model.generate("x", 20)
    assert (torch.equal(before[0], torch.get_rng_state()), before[1]) == (True, random.getstate())
    assert model.training
    assert text == model.generate("x", 20) != model.generate("x", 20, seed=1)
    assert (text[0], len(text)) == ("x", 21)


def test_a_low_temperature_keeps_to_the_likeliest_character(char_gpt, model):
    model.token_embedding.weight.data.mul_(50)  # an untrained model has no preference otherwise
    likeliest = model.logits(char_gpt.encode("x").long()[None])[0, -1].argmax()
    assert char_gpt.encode(model.generate("x", 1, temperature=1e-4))[1] == likeliest
    assert len({model.generate("x", 1, temperature=1e4, seed=seed) for seed in range(20)}) > 5


def test_the_corpus_keeps_every_tenth_file_for_evaluation(char_gpt, library):
    def letters(split):
        return set(char_gpt.decode(char_gpt.Corpus(split, context=4).windows.flatten())) - {"\n"}

    assert letters("eval") == {"j", "t"}
    assert letters("train") == set("abcdefghiklmnopqrs")


def test_a_target_is_the_next_character_and_no_character_is_a_target_twice(char_gpt, library):
    corpus = char_gpt.Corpus("eval", context=10)
    text = "j" * 50 + "\n" + "t" * 50
    batch = corpus.get_batch(torch.arange(len(corpus)))
    assert char_gpt.decode(batch["tokens"].flatten()) == text[:100]
    assert char_gpt.decode(batch["targets"].flatten()) == text[1:101]


def test_a_batch_is_its_samples_stacked(char_gpt, library):
    corpus = char_gpt.Corpus(context=7)
    order = torch.arange(len(corpus)).flip(0)
    batch = corpus.get_batch(order)
    for key, dtype in (("tokens", torch.int64), ("targets", torch.int64)):
        assert torch.equal(batch[key], torch.stack([corpus[index][key] for index in order]))
        assert batch[key].dtype == dtype


def test_a_limited_corpus_takes_windows_from_everywhere(char_gpt, library):
    corpus = char_gpt.Corpus("eval", context=5, max_windows=4)
    assert [char_gpt.decode(corpus[index]["tokens"]) for index in range(len(corpus))] == [
        "jjjjj", "jjjjj", "\ntttt", "ttttt",
    ]  # fmt: skip
    assert len(char_gpt.Corpus("eval", context=5, max_windows=1000)) == 20


def test_the_corpus_says_what_it_read(char_gpt, library, caplog):
    caplog.set_level(logging.INFO)
    char_gpt.Corpus("eval", context=4)
    assert "corpus eval: 2 files, 101 characters, sha256 " in caplog.text


def test_a_file_that_cannot_be_read_is_left_out_and_named(char_gpt, library, caplog):
    (library / "m09a.py").mkdir()
    (library / "m00.py").write_bytes(b"\xff\xfe" * 25)
    assert len(char_gpt._standard_library()) == 20
    assert f"left out {library / 'm09a.py'}" in caplog.text


def test_too_little_text_is_refused(char_gpt, library):
    with pytest.raises(ConfigError, match=r"Corpus\(eval\): expected more than 200 characters .*, got 101"):
        char_gpt.Corpus("eval", context=200)


def test_the_running_pythons_library_is_enough_to_learn_from(char_gpt):
    assert len(char_gpt.Corpus("train")) > 10_000
    assert len(char_gpt.Corpus("eval", max_windows=1024)) == 1024


def test_samples_puts_and_logs_a_text_at_each_evaluation(char_gpt, model, caplog):
    caplog.set_level(logging.INFO)
    put = {}
    trainer = SimpleNamespace(model=model, storage=SimpleNamespace(put_text=put.__setitem__), iter=7)
    hook = char_gpt.Samples(prompt="import", num_chars=5)
    hook.after_evaluate(trainer, "eval", {})
    assert put["sample"].startswith("import")
    assert len(put["sample"]) == 11
    assert f"sample at iteration 7:\n{put['sample']}" in caplog.text


def test_the_config_decays_matrices_and_embeddings_only(char_gpt):
    from fnmatch import fnmatch

    config = load_config(FOLDER / "config.yaml")
    (group,) = config.optimizer.groups
    undecayed = {
        name
        for name, _ in char_gpt.GPT().named_parameters()
        if any(fnmatch(name, pattern) for pattern in group.match)
    }
    assert undecayed == {name for name, p in char_gpt.GPT().named_parameters() if p.ndim == 1}
