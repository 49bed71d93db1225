"""Pack a trained codec as the one inside the package: float16, without the averages that only training reads.

Run it as

python -m encodec_core.demo.make MODEL [FOLDER]
"""

import argparse
from pathlib import Path

from encodec_core.audio import EncodecFeatureExtractor
from encodec_core.config import EncodecConfig
from encodec_core.model import EncodecModel
from encodec_core.naming import is_training_only
from encodec_core.weights import write_weights

__all__ = ["write_demo"]


def write_demo(model: EncodecModel, folder: Path) -> None:
    """Write the three files of a codec into `folder`, its weights rounded to float16."""
    config = EncodecConfig.from_dict(model.config.to_dict() | {"architectures": ["EncodecModel"], "dtype": "float16"})
    config.save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=config.audio_channels, sampling_rate=config.sampling_rate).save_pretrained(
        folder
    )
    state = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if not is_training_only(name)
    }
    write_weights(state, folder / "model.safetensors")


def main() -> None:
    """Pack MODEL into FOLDER, this package's by default."""
    parser = argparse.ArgumentParser(prog="python -m encodec_core.demo.make", description="Pack the demo codec.")
    parser.add_argument("model", help="folder of the trained codec, as training leaves it")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    arguments = parser.parse_args()
    write_demo(EncodecModel.from_pretrained(arguments.model), arguments.folder)


if __name__ == "__main__":
    main()
