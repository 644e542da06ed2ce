"""The small model before its distillation: 128 px, 6 M parameters, procedural portraits, trained on a CPU.

    python -m knotjax train --config=configs/small.py --workdir=out/small

Needs the extra `train` and Debian's espeak-ng. The stages (corpus, codec, DiT, decoder, export) are resumed where they
stopped when the same command is given again. `--config=configs/small.py:debug` does everything once, tiny, in about two
minutes.

On two CPU cores (AMD EPYC, no accelerator) 1,000 clips take 4 minutes, the codec 6, a step 0.65 to 1.1 s, and the
decoder's second training 10 minutes. The weights that the distillation of `configs/knot_forcing.py` began with had
8,600 steps at a quarter of the size and 9,300 more after they were grown to this one; the command above has not been
run to its end from nothing. `experiments/small_model` holds the loss curves, the figures and the exact commands,
`experiments/distill` those of the distillation. More steps help: `--config.start=FOLDER` goes on from a model's
weights.
"""

import ml_collections


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg` is empty or "debug"."""
    if arg not in ("", "debug"):
        raise ValueError(f"configs/small.py:{arg}: unknown variant, use configs/small.py or configs/small.py:debug")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.start = ""  # folder of a model whose weights and codec the run starts from, such as knotjax/assets/small
    config.mesh = dict(data=-1, fsdp=1, tensor=1, sequence=1)  # devices per axis; -1: all that are left
    config.peak_flops = 0.0  # operations per second of one device, for the utilisation; 0: that of the device, if known
    config.strips = True  # samples beside the truth with every checkpoint
    config.records = ""  # folder of encoded clips (`python -m knotjax.training.record`) to train on instead
    config.clips = 1000  # seeds 0 .. clips - 1
    config.seconds = 4.8  # of every clip

    config.codec = ml_collections.ConfigDict()
    config.codec.model = dict(size=128, patch=16, channels=96, widths=(192, 96, 64))
    config.codec.pairs = 2  # pairs of latent groups per clip that the basis is fitted to
    config.codec.moving = 48  # channels for what moves inside a latent's four frames; the rest show their mean
    config.codec.attention = 0.5  # 1 counts a patch of the basis by how much it moves, 0 all alike
    config.codec.whitening = 0.5
    config.codec.noise = 0.15  # highest level of the noise on the decoder's latents
    config.codec.mouth = 4.0  # how much more pixels of the mouth's box count for the decoder
    config.codec.batch = 12
    config.codec.optimiser = dict(steps=900, rate=1e-3, warmup=90, cooldown=0.7, b2=0.99)
    config.codec.ema = 0.99

    config.dit = dict(
        latent_channels=96,
        dim=256,
        ffn_dim=768,
        heads=8,
        layers=4,
        freq_dim=128,
        text_dim=64,
        audio_tokens=4,
        audio_width=64,
        audio_hidden=192,
        audio_window=(8, 160),
        motion_tokens=4,
        motion_window=(4, 15),
        motion_every=2,
        prediction="x0",
        given_residual=True,
    )
    config.method = "knot_forcing"
    config.plan = dict(chunk=3, window=6, knot=1, start=8, stride=4, shift=3.0, given_reference=True)
    config.chunks = 3  # of every training sample

    config.batch = 8
    config.optimiser = dict(steps=8000, rate=2e-3, warmup=100, cooldown=0.4, b2=0.98, muon=1e-2)
    config.ema = 0.999
    config.drop = dict(audio=0.05, all_motion=0.25, some_motion=0.2, words=0.3)
    config.flow = dict(shift=3.0, mouth=3.0)
    config.channel_floor = 0.2  # share of the loss that counts all latent channels alike

    config.polish = ml_collections.ConfigDict()  # the decoder once more, on what the finished model generates
    config.polish.clips = 800  # 0: not at all
    config.polish.streams = 8  # generated at once
    config.polish.share = 0.8  # of the samples that show generated latents, not true ones
    config.polish.mouth = 3.0
    config.polish.smooth = 1e-2
    config.polish.batch = 12
    config.polish.optimiser = dict(steps=2000, rate=5e-4, warmup=50, cooldown=0.9, b2=0.99)
    config.polish.ema = 0.99
    config.log_every = 20
    config.save_every = 500

    if arg == "debug":
        config.clips, config.seconds, config.batch, config.save_every = 2, 4.0, 2, 1
        config.optimiser.update(dict(steps=2, warmup=1))
        config.codec.batch, config.codec.pairs = 2, 8
        config.codec.optimiser.update(dict(steps=2, warmup=1))
        config.codec.model.widths = (16, 16, 16)
        config.dit.update(dict(dim=32, ffn_dim=64, heads=4, layers=2, audio_hidden=16))
        config.polish.clips, config.polish.streams, config.polish.batch = 2, 2, 2
        config.polish.optimiser.update(dict(steps=2, warmup=1))
        config.log_every = 1
    return config
