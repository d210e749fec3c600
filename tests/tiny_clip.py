"""A CLIP of a few thousand random weights with a tokenizer, written to a folder: nothing is downloaded."""

from pathlib import Path

import torch


def make_clip(folder: Path, text_width: int = 32, projection: int = 32) -> Path:
    """Write config.json, model.safetensors and tokenizer.json; frames of 32 pixels."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": text_width, "intermediate_size": 4 * text_width, "vocab_size": len(words), **sizes}
    text |= {"max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = {"hidden_size": 24, "intermediate_size": 48, "image_size": 32, "patch_size": 16, **sizes}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)).save_pretrained(folder)
    return folder
