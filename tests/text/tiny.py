"""Tokenizers made from a few sentences, each spelling its pieces in another way, and tiny models for them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SENTENCES = [
    "The capital of France is Paris.",
    "The capital of Italy is Rome, and the capital of Spain is Madrid.",
    "Don't go to the river in winter, it's cold and the ice is thin.",
    "A man is eating bread. Someone eats food and drinks water.",
    "In 2024 there were 365 days, said the old man who isn't here.",
]
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"


@cache
def byte_level(size: int = 400) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|end|>", additional_special_tokens=["<|user|>"], chat_template=TEMPLATE
    )


@cache
def wordpiece() -> Any:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=marks, show_progress=False)
    made.train_from_iterator(SENTENCES * 3, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))],
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **{f"{k}_token": v for k, v in names.items()})


@cache
def sentencepiece() -> Any:
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator(SENTENCES * 3, trainer)
    learned = json.loads(made.to_str())["model"]
    vocabulary = learned["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(merge) for merge in learned["merges"]]
    made.model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@cache
def end_of_word() -> Any:
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(SENTENCES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def llama(tokenizer: Any = None, length: int = 64) -> Any:
    """A causal model with random weights, for the byte-level tokenizer if no other is given."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer or byte_level()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        eos_token_id=None,
        bos_token_id=None,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def gpt2(length: int = 64) -> Any:
    """Another, with learned positions."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(byte_level()),
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=length,
        eos_token_id=None,
        bos_token_id=None,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def bert(length: int = 64) -> Any:
    """A sentence encoder."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(wordpiece()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        initializer_range=0.2,
    )
    return BertModel(config, add_pooling_layer=False).eval()
