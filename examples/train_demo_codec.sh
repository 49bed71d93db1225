#!/usr/bin/env bash
# Make the codec inside the package from nothing: gather audio, train, pack, measure on what was held out, and train the
# entropy coder's language model on its codes.
#
#     examples/train_demo_codec.sh RECORDINGS
#
# RECORDINGS holds the folders speech/, klettres_multi/ and fsdd_8k/, see the card in encodec_core/demo. The rest comes from
# Debian's packages (apt-get and dpkg are needed, no root). On one core of a 2-core machine the codec takes about 75 minutes,
# its codes 7 and the language model 18; stopped, the same command goes on. Run it in the root of a checkout, with the package
# installed.
set -euo pipefail
recordings=$(realpath "${1:?give the folder of recordings}")
mkdir -p data/demo_codec/debian && cd data/demo_codec
(
    cd debian
    for package in asterisk-core-sounds-{en,es,fr,it,ru}-wav wesnoth-1.16-music; do
        ls "$package"_*.deb >/dev/null 2>&1 || apt-get download "$package"
        dpkg -x "$package"_*.deb .
    done
)
ln -sfn debian/usr/share/asterisk/sounds prompts
ln -sfn debian/usr/share/games/wesnoth/1.16/data/core/music music
ln -sfn "$recordings/speech" speech
ln -sfn "$recordings/klettres_multi" letters
ln -sfn "$recordings/fsdd_8k" digits
cd ../..

# glibc gives large blocks back to the system after each use and faults them in again; keeping them saves a quarter.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=-1
tokenizer-jobs train-codec configs/train_demo.yaml
rm -rf encodec_core/demo/lm  # it belongs to the codec that is replaced now
python -m encodec_core.demo.make out/demo_codec/model
python -m benchmarks.demo_codec out/demo_codec --pictures encodec_core/demo
tokenizer-jobs run configs/demo_codes.yaml
tokenizer-jobs train-lm configs/train_lm_demo.yaml
mkdir -p encodec_core/demo/lm && cp out/lm_demo/lm/* encodec_core/demo/lm/
