"""One update after the other: encoder, quantizer and decoder against a balanced sum of losses (paper section 3.4).

Letters in shapes: B batch (of this rank), C audio channels, T samples, D latent channels, F frames, K codebooks in use.

    waveform ──▶ encoder ──▶ quantizer ──▶ decoder ──▶ estimate │ losses ──▶ balancer
        gradient  ◀────────── commitment ◀─────────── estimate  │ ◀── one gradient of known norm
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from encodec_core.model import EncodecModel
from encodec_core.quantization.kmeans import fit_codebooks
from encodec_core.training.balancer import Balancer
from encodec_core.training.discriminator import MultiScaleSTFTDiscriminator
from encodec_core.training.initialisation import scale_to_unit_variance
from encodec_core.training.losses import (
    MultiScaleMelLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_squared_error,
    waveform_l1,
)
from encodec_core.training.quantizer import adopt_codebooks, quantize_for_training
from encodec_core.training.ranks import average_gradients, broadcast_from_first, gather_over_ranks, num_ranks, rank
from encodec_core.training.settings import Stage, TrainingSettings
from encodec_core.windows import loudness

__all__ = ["Trainer"]

Losses = dict[str, Callable[[Tensor, Tensor], Tensor]]


class Trainer:
    """Trains a codec in place.

    Args:
        model: the codec; it moves to `device`.
        settings: the recipe.
        device: of torch.

    Under `torch.distributed` every process has a trainer of its own, made alike, and gives it waveforms of its own,
    equally many on every rank; all draw the same bandwidths and keep the same weights. Save that each rank measures
    feature matching against the features of its own waveforms, and but for rounding, they learn what one process
    learns from all the waveforms.

    Codebooks that no vector was ever counted for wait for k-means: `fit_codebooks` where a stage asks for it, else the
    first batch that uses them (the paper's section 3.2). Those of a codec that was trained before stay, see
    `adopt_codebooks`.

    On a CPU, with equal waveforms, machine and number of threads, training that was interrupted and goes on from
    `state_dict` ends in the same bits as training that was not. On a GPU it does but for rounding: some of its
    gradients are sums in no fixed order.
    """

    def __init__(self, model: EncodecModel, settings: TrainingSettings, *, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).train()
        self.settings = settings
        self.device = torch.device(device)
        self.update = 0
        """Updates done."""
        # Two, because k-means draws on the first rank alone, and bandwidths have to be those of all ranks.
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._quantizer_generator = torch.Generator().manual_seed(settings.seed + 1)
        self._parameters = [*model.encoder.parameters(), *model.decoder.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=1.0, betas=settings.adam_betas)
        self._discriminator: MultiScaleSTFTDiscriminator | None = None
        self._discriminator_optimizer: torch.optim.Adam | None = None
        if any(stage.needs_discriminator for stage in settings.stages):
            self._add_discriminator()
        self._mel = MultiScaleMelLoss(model.config.sampling_rate).to(device)
        self._balancers = {stage.name: self._balancer(stage) for stage in settings.stages}

    @property
    def is_done(self) -> bool:
        """Whether every update of the recipe is done."""
        return self.update >= self.settings.num_updates

    @property
    def stage(self) -> Stage:
        """The stage of the next update."""
        stage, _ = self.settings.locate(self.update)
        return stage

    @property
    def needs_codebooks(self) -> bool:
        """Whether `fit_codebooks` is due before the next update."""
        stage, place = self.settings.locate(self.update)
        return place == 0 and stage.codebook_crops > 0

    @torch.no_grad()
    def scale_weights(self, waveforms: Iterable[Tensor]) -> None:
        """Start random weights well, see `scale_to_unit_variance`, on the waveforms `[B, C, T]` of all ranks.

        Raises:
            ValueError: the codec was trained before, or its layout undoes what this does.
        """
        if any(codebook.cluster_size.any() for codebook in self.model.quantizer.codebooks):
            raise ValueError(
                "the codec was trained before, and scaling would undo it; set unit_variance_crops to 0, or start from "
                "random weights"
            )
        normalised = [self._normalised(gather_over_ranks(batch.to(self.device)))[0] for batch in waveforms]
        scale_to_unit_variance(self.model, torch.cat(normalised))
        self._share_model()

    @torch.no_grad()
    def fit_codebooks(self, waveforms: Iterable[Tensor]) -> None:
        """Fit every codebook by k-means to the latents of the waveforms `[B, C, T]` of all ranks.

        The first rank fits, on its device, and the others wait for `LONGEST_WAIT` at most.

        Raises:
            ValueError: they make fewer latents than a codebook has entries.
        """
        batches = (self.model.encoder(self._normalised(batch.to(self.device))[0]) for batch in waveforms)
        latents = torch.cat([gather_over_ranks(batch.transpose(1, 2).flatten(0, 1)) for batch in batches])
        num_entries = self.model.config.codebook_size
        if len(latents) < num_entries:  # said by every rank, not by one while the others wait
            raise ValueError(
                f"{len(latents)} latents cannot make {num_entries} entries; raise the stage's codebook_crops"
            )
        if rank() == 0:
            fit_codebooks(
                self.model.quantizer,
                latents,
                num_iterations=self.settings.quantizer.kmeans_iterations,
                generator=self._quantizer_generator,
            )
        self._share_model()

    def step(self, waveforms: Tensor) -> dict[str, float]:
        """Do one update.

        Args:
            waveforms: float32 `[B, C, T]` in [-1, 1] at the model's rate; one window or less for a codec with windows,
                see `check_recipe`.

        Returns:
            Losses, shares of the balancer, learning rate and what else is worth a curve.

        Raises:
            ValueError: training is done, a loss is not finite, or the waveforms do not suit the recipe.
        """
        stage, place = self.settings.locate(self.update)
        waveforms = waveforms.to(self.device)
        metrics = {"learning_rate": stage.learning_rate_at(place)}
        for group in self._optimizer.param_groups:
            group["lr"] = metrics["learning_rate"]
        estimate, commitment = self._reconstruct(waveforms, stage, metrics)
        if stage.needs_discriminator:
            metrics |= self._teach_discriminator(waveforms, estimate.detach())
        self._optimizer.zero_grad(set_to_none=True)
        # The balancer sees a leaf in the estimate's place, so that the codec is walked backwards once for both parts.
        leaf = estimate.detach().requires_grad_()
        metrics |= self._balancers[stage.name].backward(self._losses(stage, waveforms, leaf), leaf)
        assert leaf.grad is not None
        # Each item has a gradient of one norm, and they add up; the mean over the ranks would leave a share of the sum,
        # and the commitment loss, which is a mean over the items, would weigh more the more ranks there are.
        leaf.grad *= num_ranks()
        if commitment is None:
            torch.autograd.backward([estimate], [leaf.grad])
        else:
            weight = commitment.new_tensor(self.settings.commitment_weight)
            torch.autograd.backward([estimate, commitment], [leaf.grad, weight])
        average_gradients(self._parameters)
        self._optimizer.step()
        self.update += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on, as tensors, numbers and strings."""
        state: dict[str, Any] = {
            "update": self.update,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "balancers": {name: balancer.state_dict() for name, balancer in self._balancers.items()},
            "generator": self._generator.get_state(),
            "quantizer_generator": self._quantizer_generator.get_state(),
        }
        if self._discriminator is not None and self._discriminator_optimizer is not None:
            state["discriminator"] = self._discriminator.state_dict()
            state["discriminator_optimizer"] = self._discriminator_optimizer.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Stages may have been added or lengthened since; a discriminator that the state lacks starts afresh.
        """
        self.update = state["update"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name, balancer in self._balancers.items():
            if name in state["balancers"]:
                balancer.load_state_dict(state["balancers"][name])
        self._generator.set_state(state["generator"].cpu())
        self._quantizer_generator.set_state(state["quantizer_generator"].cpu())
        if self._discriminator is not None and self._discriminator_optimizer is not None and "discriminator" in state:
            self._discriminator.load_state_dict(state["discriminator"])
            self._discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def _add_discriminator(self) -> None:
        settings = self.settings.discriminator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self._discriminator = MultiScaleSTFTDiscriminator(
                settings.num_filters,
                n_ffts=settings.window_lengths,
                hop_lengths=[length // 4 for length in settings.window_lengths],
                win_lengths=settings.window_lengths,
            ).to(self.device)
        self._discriminator_optimizer = torch.optim.Adam(
            self._discriminator.parameters(), lr=settings.learning_rate, betas=self.settings.adam_betas
        )

    def _share_model(self) -> None:
        """Give every rank what the first one made of its own waveforms."""
        broadcast_from_first(*self.model.state_dict().values())

    def _balancer(self, stage: Stage) -> Balancer:
        return Balancer(stage.losses, ema_decay=self.settings.balancer_decay)

    def _normalised(self, waveforms: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.model.config.normalize:
            return waveforms, None
        scale = loudness(waveforms)
        return waveforms / scale, scale

    def _reconstruct(self, waveforms: Tensor, stage: Stage, metrics: dict[str, float]) -> tuple[Tensor, Tensor | None]:
        normalised, scale = self._normalised(waveforms)
        latents, commitment = self.model.encoder(normalised), None
        if self.update == 0:
            num_items, _, num_frames = latents.shape
            adopt_codebooks(self.model.quantizer, num_vectors=num_ranks() * num_items * num_frames)
        if stage.quantize:
            quantized = quantize_for_training(
                self.model.quantizer,
                latents,
                n_q=self._draw_n_q(),
                settings=self.settings.quantizer,
                generator=self._quantizer_generator,
            )
            latents, commitment = quantized.quantized, quantized.commitment_loss
            metrics["commitment"] = float(commitment.detach())
            metrics["replaced_entries"] = float(quantized.num_replaced)
        estimate = self.model.decoder(latents)[..., : waveforms.shape[-1]]
        return estimate if scale is None else estimate * scale, commitment

    def _draw_n_q(self) -> int:
        """Draw one of the bandwidths: quantizer dropout (paper section 3.2)."""
        bandwidths = self.model.config.target_bandwidths
        chosen = int(torch.randint(len(bandwidths), (), generator=self._generator))
        return self.model.config.n_q_for(bandwidths[chosen])

    def _losses(self, stage: Stage, waveforms: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        simple: Losses = {
            "waveform_l1": waveform_l1,
            "relative_error": relative_squared_error,
            "mel": self._mel,
        }
        losses = {name: simple[name](waveforms, estimate) for name in stage.losses if name in simple}
        if stage.needs_discriminator:
            assert self._discriminator is not None
            logits, features = self._discriminator(_mono(estimate))
            if "adversarial" in stage.losses:
                losses["adversarial"] = generator_loss(logits)
            if "feature_matching" in stage.losses:
                with torch.no_grad():
                    _, real_features = self._discriminator(_mono(waveforms))
                losses["feature_matching"] = feature_matching_loss(real_features, features)
        return losses

    def _teach_discriminator(self, waveforms: Tensor, estimate: Tensor) -> dict[str, float]:
        discriminator, optimizer = self._discriminator, self._discriminator_optimizer
        assert discriminator is not None
        assert optimizer is not None
        draw = float(torch.rand((), generator=self._generator))
        if draw >= self.settings.discriminator.update_probability:
            return {}
        real_logits, _ = discriminator(_mono(waveforms))
        fake_logits, _ = discriminator(_mono(estimate))
        loss = discriminator_loss(real_logits, fake_logits)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward([loss])
        average_gradients(discriminator.parameters())
        optimizer.step()
        return {"discriminator": float(loss.detach())}


def _mono(waveforms: Tensor) -> Tensor:
    """`[B, C, T]` -> `[B x C, 1, T]`: the discriminator hears left and right by themselves (paper section 3.4)."""
    return waveforms.flatten(0, 1).unsqueeze(1)
