"""Small tokenizers with any chat template, made on the spot: tests need no download."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CORPUS = [
    "Question: how do I open a door?\nAnswer: <think>\nIt is a door.\n</think>\n\nTurn the handle.",
    "system user assistant Is this safe? It is safe, so I will answer. I can't help with that.\n\n\n  é日本",
] * 4


def byte_level(template: str, extra: tuple = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as Llama 3 and Qwen have; its post-processor adds a BOS of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if extra:
        tokenizer.add_tokens(list(extra))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast


def sentencepiece(template: str) -> PreTrainedTokenizerFast:
    """A BPE with a metaspace before the first word, as Llama 2 and Mistral have."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    lines = pre_tokenizers.Split(Regex(r"\n|[<>/]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), lines])
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=["<unk>", *SPECIALS], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    for byte in range(256):
        learned["vocab"][f"<0x{byte:02X}>"] = len(learned["vocab"])
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer.model = models.BPE(learned["vocab"], merges, byte_fallback=True, unk_token="<unk>")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = template
    return fast
