"""transformers' MusicGen decoder, trained on an output of codes: `python examples/musicgen_from_codes.py out/speech`.

`DelayPattern` lays codes out as MusicGen reads them, so the reader's tokens are its inputs and its labels. The decoder
here is small, with random weights, and without text: for a whole MusicGen, `MusicgenForConditionalGeneration` takes
the same labels. Needs transformers, which is no dependency: `pip install transformers`.

Letters in shapes: B batch, K codebooks, S steps.
"""

import argparse
import importlib.util

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tokenizer_jobs.training import DelayPattern, TokenDataset, TokenTable


def labels_of(tokens: Tensor) -> Tensor:
    """Labels [B, S - 1, K] from tokens [B, K, S].

    MusicGen makes its inputs of the labels: it puts the start, our column 0, in front and leaves the last step out.
    Holes and padding have `pad_id`, which it does not count in its loss.
    """
    return tokens[..., 1:].transpose(1, 2).contiguous()


def main(argv: list[str] | None = None) -> None:
    """A few updates of a small decoder on one batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="an output of codes")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--crop-frames", type=int, default=100)
    parser.add_argument("--updates", type=int, default=5)
    arguments = parser.parse_args(argv)
    if importlib.util.find_spec("transformers") is None:
        raise SystemExit("transformers is missing, and this example trains a model of its; pip install transformers")
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    size = TokenTable(arguments.output).recorded["codebook_size"]
    pattern = DelayPattern(pad_id=size)
    dataset = TokenDataset(arguments.output, pattern=pattern, crop_frames=arguments.crop_frames)
    tokens = next(iter(DataLoader(dataset, batch_size=arguments.batch_size, collate_fn=dataset.collate)))["tokens"]
    labels = labels_of(tokens)
    print(f"tokens {list(tokens.shape)}, labels {list(labels.shape)}")

    torch.manual_seed(0)
    config = MusicgenDecoderConfig(
        vocab_size=size,
        num_codebooks=dataset.num_codebooks,
        pad_token_id=size,
        bos_token_id=size,
        hidden_size=64,
        ffn_dim=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        dropout=0.0,
    )
    model = MusicgenForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for update in range(arguments.updates + 1):
        loss = model(labels=labels).loss
        print(f"update {update}: loss {float(loss.detach()):.4f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
