"""What VALL-E reads of an output: `python examples/valle_shapes.py out/speech`. Prints the shapes of every batch.

Two models. The first predicts codebook 0 code after code, from BOS to EOS (AR). The second predicts one further
codebook, the level, of all frames at once from the codebooks below it (NAR); the level is drawn for each recording.
Here they are two small transformers without text, and each takes a few steps of training; VALL-E puts the phonemes of
a text and a prompt of all codebooks in front of both.

Letters in shapes: B batch, K codebooks, T frames, S tokens, V vocabulary.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from tokenizer_jobs.training import Supervision, TokenDataset, TokenTable, ValleArPattern, ValleNarPattern

WIDTH = 64


def transformer() -> nn.TransformerEncoder:
    """Two layers; a mask makes it causal."""
    layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, num_layers=2)


class Positions(nn.Module):
    """Adds where a step is, for up to 4096 of them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4096, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to the same."""
        steps: Tensor = self.table(torch.arange(x.shape[1]))
        return x + steps


class ArModel(nn.Module):
    """Tokens of codebook 0, [B, S], to scores of those that follow, [B, S, V]."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.read, self.positions = nn.Embedding(vocabulary_size, WIDTH), Positions()
        self.body, self.score = transformer(), nn.Linear(WIDTH, vocabulary_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        scores: Tensor = self.score(self.body(self.positions(self.read(tokens)), mask=causal, is_causal=True))
        return scores


class NarModel(nn.Module):
    """Tokens [B, K, T], of which the codebooks below the level are codes, and levels [B] to scores [B, T, V]."""

    def __init__(self, vocabulary_size: int, *, num_codebooks: int, pad_id: int) -> None:
        super().__init__()
        tables = (nn.Embedding(vocabulary_size, WIDTH, padding_idx=pad_id) for _ in range(num_codebooks))
        self.read, self.pad_id = nn.ModuleList(tables), pad_id
        self.level, self.positions = nn.Embedding(num_codebooks, WIDTH), Positions()
        self.body, self.score = transformer(), nn.Linear(WIDTH, vocabulary_size)

    def forward(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """See the class."""
        frames = torch.stack([table(tokens[:, k]) for k, table in enumerate(self.read)]).sum(0)  # pad_id adds nothing
        is_padding = tokens[:, 0] == self.pad_id
        x = self.positions(frames + self.level(levels)[:, None])
        scores: Tensor = self.score(self.body(x, src_key_padding_mask=is_padding))
        return scores


def loss_of(scores: Tensor, step: Supervision[Tensor]) -> Tensor:
    """Cross-entropy over the targets that count: codes and ends, not padding."""
    losses = functional.cross_entropy(scores.flatten(0, -2), step.targets.flatten(), reduction="none")
    return (losses * step.loss_weights.flatten()).sum() / step.loss_weights.sum()


def train(name: str, model: nn.Module, step: Supervision[Tensor], score: Callable[[], Tensor], *, updates: int) -> None:
    """A few updates on one batch, and what they did to the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(updates + 1):
        loss = loss_of(score(), step)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name} inputs {list(step.inputs.shape)}, targets {list(step.targets.shape)}", end=", ")
    print(f"{int(step.loss_weights.sum())} of them count: loss {losses[0]:.3f}, then {losses[-1]:.3f}")


def main(argv: list[str] | None = None) -> None:
    """One batch for each of the two models, and training on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="an output of codes, of two codebooks or more")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--crop-frames", type=int, default=150)
    parser.add_argument("--updates", type=int, default=1, help="of training, on the one batch")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    size = TokenTable(arguments.output).recorded["codebook_size"]

    def batch_of(pattern: ValleArPattern | ValleNarPattern) -> tuple[TokenDataset, Tensor]:
        dataset = TokenDataset(arguments.output, pattern=pattern, crop_frames=arguments.crop_frames)
        batch = next(iter(DataLoader(dataset, batch_size=arguments.batch_size, collate_fn=dataset.collate)))
        return dataset, batch["tokens"]

    ar_pattern = ValleArPattern(codebook_size=size)
    _, tokens = batch_of(ar_pattern)
    ar_step = ar_pattern.supervise(tokens)
    ar_model = ArModel(ar_pattern.vocabulary_size)
    print(f"AR  tokens {list(tokens.shape)} from {int(tokens[0, 0])} (BOS) to {ar_pattern.eos_id} (EOS)")
    train("AR ", ar_model, ar_step, lambda: ar_model(ar_step.inputs), updates=arguments.updates)

    nar_pattern = ValleNarPattern(pad_id=size)
    dataset, tokens = batch_of(nar_pattern)
    nar_step, levels = nar_pattern.supervise(tokens), nar_pattern.levels(tokens)
    nar_model = NarModel(nar_pattern.vocabulary_size, num_codebooks=dataset.num_codebooks, pad_id=size)
    print(f"NAR tokens {list(tokens.shape)}, levels {levels.tolist()}")
    train("NAR", nar_model, nar_step, lambda: nar_model(nar_step.inputs, levels), updates=arguments.updates)


if __name__ == "__main__":
    main()
