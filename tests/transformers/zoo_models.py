"""Tiny random configurations of stock architectures, one factory a name.

``make(name)`` gives a :class:`Case`: an untrained model of the stock class in eval mode, the keyword
arguments of one forward and what to explain in its output. Nothing is downloaded: configurations are
written out here, and weights are drawn from generators seeded by the parameters' names, so that a case
is the same whatever initialisation the installed version of a package uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.recipe import fill

VOCABULARY = 61
TOKENS = 7


@dataclass
class Case:
    """A model, what to call it with, and which part of its output is explained."""

    model: nn.Module
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def forward(self) -> Any:
        with torch.no_grad():
            return self.model(*self.args, **self.kwargs)


def ids(count: int = TOKENS, batch: int = 1, seed: int = 0, vocabulary: int = VOCABULARY) -> Tensor:
    """Token ids that avoid the small numbers most configurations reserve for special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, vocabulary, (batch, count), generator=generator)


def pixels(size: int = 32, batch: int = 1, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, size, size, generator=generator)


def last_logit(output: Any) -> Tensor:
    """The logit of token 11 at the last position."""
    return output.logits[:, -1, 11]


def class_logit(output: Any) -> Tensor:
    return output.logits[:, 1]


def span_logits(output: Any) -> Tensor:
    """Start and end of an answer span: two logits, explained together."""
    return output.start_logits[:, 2] + output.end_logits[:, 4]


SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = dict(SMALL, num_key_value_heads=2)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _causal(config_name: str, class_name: str, **settings: Any) -> Case:
    import transformers

    config = getattr(transformers, config_name)(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config)
    return Case(fill(model), last_logit, kwargs={"input_ids": ids()})


def llama() -> Case:
    return _causal("LlamaConfig", "LlamaForCausalLM", **GROUPED)


def qwen2() -> Case:
    return _causal("Qwen2Config", "Qwen2ForCausalLM", **GROUPED)


def qwen3() -> Case:
    return _causal("Qwen3Config", "Qwen3ForCausalLM", **GROUPED, head_dim=4)


def mistral() -> Case:
    return _causal("MistralConfig", "MistralForCausalLM", **GROUPED, sliding_window=4)


def mixtral() -> Case:
    return _causal("MixtralConfig", "MixtralForCausalLM", **GROUPED, num_local_experts=4, num_experts_per_tok=2)


def gemma2() -> Case:
    return _causal(
        "Gemma2Config", "Gemma2ForCausalLM", **GROUPED, head_dim=4, query_pre_attn_scalar=4, sliding_window=4
    )


def gemma3() -> Case:
    return _causal(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        **GROUPED,
        head_dim=4,
        query_pre_attn_scalar=4,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    )


def phi3() -> Case:
    return _causal("Phi3Config", "Phi3ForCausalLM", **GROUPED, pad_token_id=0)


def gpt2() -> Case:
    return _causal(
        "GPT2Config", "GPT2LMHeadModel", vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=32
    )


def opt() -> Case:
    settings = {k: v for k, v in SMALL.items() if k != "intermediate_size"}
    return _causal("OPTConfig", "OPTForCausalLM", **settings, ffn_dim=24, word_embed_proj_dim=16)


def gpt_neox() -> Case:
    return _causal("GPTNeoXConfig", "GPTNeoXForCausalLM", **SMALL)


def bloom() -> Case:
    return _causal("BloomConfig", "BloomForCausalLM", vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=4)


def mamba() -> Case:
    return _causal(
        "MambaConfig",
        "MambaForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
    )


def mamba2() -> Case:
    return _causal(
        "Mamba2Config",
        "Mamba2ForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=16,
        state_size=4,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        n_groups=2,
        chunk_size=4,
    )


def bert() -> Case:
    import transformers

    config = transformers.BertConfig(**SMALL, num_labels=3)
    return Case(fill(transformers.BertForSequenceClassification(config)), class_logit, kwargs={"input_ids": ids()})


def roberta() -> Case:
    import transformers

    config = transformers.RobertaConfig(**SMALL, num_labels=3)
    mask = torch.ones(2, TOKENS, dtype=torch.long)
    mask[1, 5:] = 0
    return Case(
        fill(transformers.RobertaForSequenceClassification(config)),
        class_logit,
        kwargs={"input_ids": ids(batch=2), "attention_mask": mask},
    )


def distilbert() -> Case:
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=4, max_position_embeddings=32
    )
    return Case(fill(transformers.DistilBertForQuestionAnswering(config)), span_logits, kwargs={"input_ids": ids()})


def t5() -> Case:
    import transformers

    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return Case(
        fill(transformers.T5ForConditionalGeneration(config)),
        last_logit,
        kwargs={"input_ids": ids(), "decoder_input_ids": ids(3, seed=1)},
    )


def bart() -> Case:
    import transformers

    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    return Case(
        fill(transformers.BartForConditionalGeneration(config)),
        last_logit,
        kwargs={"input_ids": ids(), "decoder_input_ids": ids(3, seed=1)},
    )


def whisper() -> Case:
    import transformers

    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=12,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    features = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(0))
    return Case(
        fill(transformers.WhisperForConditionalGeneration(config)),
        last_logit,
        kwargs={"input_features": features, "decoder_input_ids": ids(3, seed=1)},
    )


def wav2vec2() -> Case:
    import transformers

    config = transformers.Wav2Vec2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    sound = torch.randn(1, 160, generator=torch.Generator().manual_seed(0))
    return Case(fill(transformers.Wav2Vec2ForCTC(config)), last_logit, kwargs={"input_values": sound})


VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}


def vit() -> Case:
    import transformers

    model = transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    return Case(fill(model), class_logit, kwargs={"pixel_values": pixels()})


def deit() -> Case:
    import transformers

    model = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**VISION))
    return Case(fill(model), class_logit, kwargs={"pixel_values": pixels()})


def dinov2() -> Case:
    import transformers

    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**VISION, mlp_ratio=2))
    return Case(fill(model), class_logit, kwargs={"pixel_values": pixels()})


def swin() -> Case:
    import transformers

    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=3
    )
    return Case(fill(transformers.SwinForImageClassification(config)), class_logit, kwargs={"pixel_values": pixels()})


def clip() -> Case:
    import transformers

    text = dict(SMALL, eos_token_id=2, bos_token_id=1, pad_token_id=0, projection_dim=12)
    vision = {k: v for k, v in VISION.items() if k != "num_labels"} | {"projection_dim": 12}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    words = ids(batch=2)
    words[:, -1] = 2
    return Case(
        fill(transformers.CLIPModel(config)),
        lambda output: output.logits_per_image[:, 1],
        kwargs={"input_ids": words, "pixel_values": pixels()},
    )


def segformer() -> Case:
    import transformers

    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=12,
        num_labels=3,
    )
    return Case(
        fill(transformers.SegformerForSemanticSegmentation(config)),
        lambda output: output.logits[:, 1, 2:5, 2:5].sum((1, 2)),
        kwargs={"pixel_values": pixels()},
    )


def vision_transformer() -> Case:
    """torchvision's VisionTransformer, small."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=24, num_classes=5
    )
    return Case(fill(model), 1, args=(pixels(),))


def swin_transformer() -> Case:
    """torchvision's SwinTransformer, small."""
    from torchvision.models import SwinTransformer

    model = SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=5
    )
    return Case(fill(model), 1, args=(pixels(),))


def swin_transformer_v2() -> Case:
    """torchvision's SwinTransformer of version 2 (cosine attention, continuous position bias), small."""
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    model = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[4, 4],
        num_classes=5,
        block=SwinTransformerBlockV2,
        downsample_layer=PatchMergingV2,
    )
    return Case(fill(model), 1, args=(pixels(),))


def timm_deit() -> Case:
    import timm

    model = timm.create_model("deit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_classes=5)
    return Case(fill(model), 1, args=(pixels(),))


def longformer() -> Case:
    """Sliding windows by strides, written into slices."""
    import transformers

    config = transformers.LongformerConfig(**SMALL, **SPECIAL, num_labels=3, attention_window=4)
    return Case(
        fill(transformers.LongformerForSequenceClassification(config)), class_logit, kwargs={"input_ids": ids()}
    )


def longt5() -> Case:
    """Local attention in blocks, biases added in place to a view."""
    import transformers

    config = transformers.LongT5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, local_radius=3,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = fill(transformers.LongT5ForConditionalGeneration(config))
    return Case(model, last_logit, kwargs={"input_ids": ids(), "decoder_input_ids": ids(3, seed=1)})


def deberta_v2() -> Case:
    """Disentangled attention: scores by gathered relative positions."""
    import transformers

    config = transformers.DebertaV2Config(
        **SMALL, num_labels=3, relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=4,
        norm_rel_ebd="layer_norm", share_att_key=True, conv_kernel_size=3, pad_token_id=0,
    )  # fmt: skip
    return Case(fill(transformers.DebertaV2ForSequenceClassification(config)), class_logit, kwargs={"input_ids": ids()})


def xlnet() -> Case:
    """Relative attention by einsum and shifted strides."""
    return _causal(
        "XLNetConfig", "XLNetLMHeadModel", vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=4, d_inner=24
    )


def fnet() -> Case:
    """Mixing by Fourier transforms."""
    import transformers

    config = transformers.FNetConfig(**{k: v for k, v in SMALL.items() if "heads" not in k}, num_labels=3)
    return Case(fill(transformers.FNetForSequenceClassification(config)), class_logit, kwargs={"input_ids": ids()})


def qwen3_next() -> Case:
    """Gated delta rule: a triangular system a chunk; experts."""
    return _causal(
        "Qwen3NextConfig", "Qwen3NextForCausalLM", **GROUPED, **SPECIAL, head_dim=4,
        layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=4, linear_value_head_dim=4, num_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=12, shared_expert_intermediate_size=12,
    )  # fmt: skip


def gpt_oss() -> Case:
    """Attention sinks and experts."""
    return _causal(
        "GptOssConfig", "GptOssForCausalLM", **GROUPED, **SPECIAL, head_dim=4, num_local_experts=4,
        num_experts_per_tok=2,
    )  # fmt: skip


def recurrent_gemma() -> Case:
    """A gated linear recurrence with a custom square root."""
    return _causal(
        "RecurrentGemmaConfig", "RecurrentGemmaForCausalLM", **GROUPED, **SPECIAL, head_dim=4, lru_width=16,
        block_types=["recurrent", "attention"], attention_window_size=8,
    )  # fmt: skip


def bamba() -> Case:
    """Mamba-2 beside attention."""
    return _causal(
        "BambaConfig", "BambaForCausalLM", **GROUPED, **SPECIAL, attn_layer_indices=[1], mamba_n_heads=4,
        mamba_d_head=8, mamba_d_state=4, mamba_n_groups=1, mamba_chunk_size=4, mamba_expand=2,
    )  # fmt: skip


def rwkv() -> Case:
    """A recurrence kept stable by running maxima, where exp meets zero exactly."""
    return _causal(
        "RwkvConfig", "RwkvForCausalLM", vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2,
        attention_hidden_size=16, intermediate_size=24, context_length=32,
    )  # fmt: skip


def hubert() -> Case:
    import transformers

    config = transformers.HubertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
        conv_dim=(8, 8), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    sound = torch.randn(1, 160, generator=torch.Generator().manual_seed(0))
    return Case(fill(transformers.HubertForCTC(config)), last_logit, kwargs={"input_values": sound})


def blip() -> Case:
    """An image prompts a decoder that changes its embeddings in place."""
    import transformers

    config = transformers.BlipConfig(
        text_config=dict(SMALL, **SPECIAL, encoder_hidden_size=16, projection_dim=8, sep_token_id=2),
        vision_config=dict(VISION, projection_dim=8),
        projection_dim=8,
    )
    model = fill(transformers.BlipForConditionalGeneration(config))
    return Case(model, last_logit, kwargs={"pixel_values": pixels(), "input_ids": ids()})


def detr() -> Case:
    """Object queries attend to a convolutional network's features; one box is explained."""
    import transformers

    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=4, num_labels=3, use_timm_backbone=False,
        use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
    )  # fmt: skip
    model = fill(transformers.DetrForObjectDetection(config))
    return Case(model, lambda output: output.pred_boxes[:, 1], kwargs={"pixel_values": pixels(64)})


def timm_xcit() -> Case:
    """Attention between channels; its batch norms are read transposed."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("xcit_nano_12_p16_224", img_size=64, depth=1, embed_dim=32, num_classes=5)
    return Case(fill(model), 1, args=(pixels(64),))


TEXT = [
    bert, roberta, distilbert, gpt2, opt, gpt_neox, bloom, llama, qwen2, qwen3, mistral, mixtral,
    gemma2, gemma3, phi3, t5, bart, mamba, mamba2,
]  # fmt: skip
AUDIO = [whisper, wav2vec2]
IMAGE = [vit, deit, dinov2, swin, clip, segformer]
OTHER = [vision_transformer, swin_transformer, swin_transformer_v2, timm_deit]

FACTORIES: dict[str, Callable[[], Case]] = {f.__name__: f for f in TEXT + AUDIO + IMAGE + OTHER}

#: Further classes, each for an operation or a way of writing that no other one has.
MORE: dict[str, Callable[[], Case]] = {
    f.__name__: f
    for f in [
        longformer, longt5, deberta_v2, xlnet, fnet, qwen3_next, gpt_oss, recurrent_gemma, bamba, rwkv, hubert, blip,
        detr, timm_xcit,
    ]
}  # fmt: skip


def make(name: str) -> Case:
    """The case of one name; the same each time."""
    return (FACTORIES | MORE)[name]()
