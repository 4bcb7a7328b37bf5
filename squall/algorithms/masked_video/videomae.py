"""Weights of an autoencoder under the names of Hugging Face's VideoMAE, and back.

Three of its models take them: `VideoMAEModel` (the encoder), `VideoMAEForPreTraining` (all) and
`VideoMAEForVideoClassification` (the encoder behind a mean over tokens; its last norm and its classifier are new, the last norm
of pre-training is left out). Positions are no weights: both sides compute them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from squall.algorithms.masked_video.autoencoder_config import NORM_EPSILON, AutoencoderConfig
from squall.platform.config import validate
from squall.platform.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from squall.algorithms.masked_video.autoencoder import MaskedAutoencoder

Kind = Literal["model", "pretraining", "classification"]
TRUNK = "videomae."
PARTS = {"query": "attention.attention.query", "key": "attention.attention.key", "value": "attention.attention.value",
         "out": "attention.output.dense"}
LAYERS = {"before": "layernorm_before", "after": "layernorm_after", "wider": "intermediate.dense", "narrower": "output.dense"}
PLAIN = {"embedding": "videomae.embeddings.patch_embeddings.projection", "norm": "videomae.layernorm",
         "to_decoder": "encoder_to_decoder", "decoder_norm": "decoder.norm", "head": "decoder.head"}
STACKS = {"encoder": "videomae.encoder.layer", "decoder": "decoder.decoder_layers"}


def videomae_config(config: AutoencoderConfig, kind: Kind = "model", **further: Any) -> dict[str, Any]:
    """Arguments of a VideoMAEConfig for an autoencoder's sizes.

    Args:
        further: more of them, such as ``num_labels`` or ``id2label`` of a classifier.
    """
    return {
        "image_size": (config.image_height if config.image_height == config.image_width
                       else [config.image_height, config.image_width]),
        "patch_size": config.patch, "num_channels": config.channels, "num_frames": config.frames,
        "tubelet_size": config.tubelet, "hidden_size": config.width, "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads, "intermediate_size": config.width * config.mlp_ratio,
        "decoder_hidden_size": config.decoder_width, "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads, "norm_pix_loss": config.normalise_targets,
        "decoder_intermediate_size": config.decoder_width * config.mlp_ratio, "qv_bias": True,
        "use_mean_pooling": kind == "classification" or not config.final_norm, **further}


def autoencoder_config(values: Mapping[str, Any], mean: tuple[float, ...], std: tuple[float, ...], where: str
                       ) -> AutoencoderConfig:
    """The sizes of a VideoMAEConfig, the inverse of `videomae_config`.

    Args:
        values: all of a VideoMAEConfig's, defaults too.
        where: what errors begin with.

    Raises:
        ConfigError: an encoder that ours cannot be.
    """
    fixed = {"model_type": "videomae", "hidden_act": "gelu", "qv_bias": True, "layer_norm_eps": NORM_EPSILON}
    for key, expected in fixed.items():
        if values[key] != expected:
            raise ConfigError(f"{where}: {key} is {values[key]!r}, and of a VideoMAE that can be taken it is {expected!r}")
    if values["intermediate_size"] % values["hidden_size"]:
        raise ConfigError(f"{where}: intermediate_size {values['intermediate_size']} is no multiple of hidden_size "
                          f"{values['hidden_size']}")
    size = values["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    own = {"frames": values["num_frames"], "image_height": height, "image_width": width, "tubelet": values["tubelet_size"],
           "patch": values["patch_size"], "channels": values["num_channels"], "width": values["hidden_size"],
           "depth": values["num_hidden_layers"], "heads": values["num_attention_heads"],
           "decoder_width": values["decoder_hidden_size"], "decoder_depth": values["decoder_num_hidden_layers"],
           "decoder_heads": values["decoder_num_attention_heads"],
           "mlp_ratio": values["intermediate_size"] // values["hidden_size"],
           "final_norm": not values["use_mean_pooling"], "normalise_targets": values["norm_pix_loss"], "mean": mean, "std": std}
    return validate(AutoencoderConfig, own, where)


def to_videomae(module: nn.Module, kind: Kind = "model") -> dict[str, torch.Tensor]:
    """The state dict for one of the three models. A classifier lacks `fc_norm` and `classifier`, which are to be trained.

    Args:
        module: an autoencoder, or what has parts of one under the same names.
    """
    whole = {_their_name(name): value.detach() for name, value in module.state_dict().items()}
    if kind == "pretraining":
        return whole
    trunk = {name: value for name, value in whole.items() if name.startswith(TRUNK)}
    if kind == "model":
        return {name.removeprefix(TRUNK): value for name, value in trunk.items()}
    return {name: value for name, value in trunk.items() if not name.startswith(TRUNK + "layernorm.")}


def from_videomae(module: MaskedAutoencoder, state: Mapping[str, torch.Tensor], where: str = "checkpoint") -> list[str]:
    """Load what one of the three models saved into an autoencoder of the same size, in place.

    Args:
        state: under the names that transformers 5 gives and writes.
        where: what errors begin with.

    Returns:
        Our names of weights that the state does not have, such as the decoder's; they stay as they are.

    Raises:
        DataError: the encoder is not all there, or of another size (reason ``bad_checkpoint``).
    """
    own = module.state_dict()
    theirs = {name if _whole(state) or not _of_trunk(name) else TRUNK + name: value for name, value in state.items()}
    found = {name: theirs[_their_name(name)] for name in own if _their_name(name) in theirs}
    absent = [name for name in own if name not in found]
    lost = [name for name in absent if name.startswith(("embedding.", "encoder."))]
    if lost:
        raise DataError(f"{where}: holds no {_their_name(lost[0])}; it has other layers than this autoencoder "
                        f"({module.config.depth} blocks), or is no VideoMAE", reason="bad_checkpoint")
    more = [name for name in theirs if name.startswith(f"{STACKS['encoder']}.{module.config.depth}.")]
    if more:
        raise DataError(f"{where}: has more than this autoencoder's {module.config.depth} blocks", reason="bad_checkpoint")
    for name, value in found.items():
        if value.shape != own[name].shape:
            raise DataError(f"{where}: {_their_name(name)} has shape {tuple(value.shape)}, and this autoencoder's is "
                            f"{tuple(own[name].shape)}; give the sizes that it was trained with", reason="bad_checkpoint")
    module.load_state_dict({**own, **found})
    return absent


def _whole(state: Mapping[str, torch.Tensor]) -> bool:
    return any(name.startswith(TRUNK) for name in state)


def _of_trunk(name: str) -> bool:
    return name.startswith(("embeddings.", "encoder.", "layernorm."))


def _their_name(name: str) -> str:
    """``encoder.3.attention.query.weight`` as ``videomae.encoder.layer.3.attention.attention.query.weight``."""
    first, _, rest = name.partition(".")
    if first not in STACKS:
        return f"{PLAIN[first]}.{rest}" if first in PLAIN else name
    layer, part, *rest_parts = rest.split(".")
    if part == "attention":
        part, *rest_parts = rest_parts
    return ".".join((STACKS[first], layer, (PARTS | LAYERS)[part], *rest_parts))
