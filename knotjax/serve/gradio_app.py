"""A Gradio demo for Colab and Spaces: a picture and a recording become a video, shown while it is made.

    python -m knotjax.serve.gradio_app [--share]

In a notebook: `from knotjax.serve.gradio_app import launch; launch()`. Needs the extra `gradio`.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import gradio as gr
import numpy as np

from knotjax.drive import ACTIONS, EMOTIONS
from knotjax.errors import InputError
from knotjax.media import SoundFile, VideoWriter, read_picture

ASSETS = Path(__file__).parents[1] / "assets"
MAX_SECONDS = 60  # of sound
WAITING = 8  # clients in the queue
KEPT_SECONDS = 900  # that files of clients stay on the disk


def told(error: InputError, *paths) -> gr.Error:
    """An error as the user is to see it: without the names of files on the server."""
    text = str(error)
    for path in paths:
        text = text.replace(repr(str(path)), "").replace("  ", " ")
    return gr.Error(text, print_exception=False)


def speak(animator, image, audio, emotion: str, action: str) -> Iterator[tuple[np.ndarray, str | None]]:
    """Make the video: the newest frame uint8 [size, size, 3] after every block, with the path of the file at the end.

    Args:
      image, audio: paths of files that Gradio stored, or None for the bundled ones.
      emotion, action: words, or "" for none.

    Raises:
      gr.Error: something cannot be used.
    """
    image, audio = image or ASSETS / "portrait.png", audio or ASSETS / "hello.wav"
    with tempfile.TemporaryDirectory(prefix="knotjax-") as folder:
        output = Path(folder) / "video.mp4"
        try:
            picture = read_picture(image, animator.size)
            with SoundFile(audio, MAX_SECONDS) as sound, VideoWriter(output, size=animator.size) as writer:
                words = {"emotion": emotion or None, "action": action or None}
                for piece in animator.stream(picture, sound, **words):
                    writer.write_sound(piece.sound)
                    writer.write(piece.frames)
                    yield piece.frames[-1], None
        except InputError as error:
            raise told(error, image, audio) from None
        yield piece.frames[-1], str(output)  # Gradio copies the file before it asks for more


def build(animator) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="knotjax", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as demo:
        gr.Markdown("# knotjax\nA portrait speaks. Everything that this page makes is synthetic video.")
        with gr.Row():
            with gr.Column():
                image = gr.Image(type="filepath", label="Portrait (the bundled one if empty)", sources=["upload"])
                audio = gr.Audio(
                    type="filepath", label=f"Voice, at most {MAX_SECONDS} s", sources=["upload", "microphone"]
                )
                emotion = gr.Dropdown(["", *EMOTIONS], value="", label="Emotion")
                action = gr.Dropdown(["", *ACTIONS], value="", label="Action")
                start = gr.Button("Speak", variant="primary")
                stop = gr.Button("Stop")
            with gr.Column():
                frame = gr.Image(label="Being made", interactive=False)
                video = gr.Video(label="Video", interactive=False)
        running = start.click(
            lambda *inputs: (yield from speak(animator, *inputs)),
            [image, audio, emotion, action],
            [frame, video],
            api_name="speak",
        )
        stop.click(None, cancels=[running])
    return demo.queue(max_size=WAITING, default_concurrency_limit=1)


def launch(animator=None, share: bool = False, **options):
    """Serve the page on this machine; through Gradio's public tunnel only when asked to.

    Args:
      animator: the loaded model; the one that comes along by default.
      options: further ones of `gr.Blocks.launch`.
    """
    if animator is None:
        from knotjax.pipeline import Animator

        animator = Animator.load()
    fixed = {"share": share, "show_error": False, "allowed_paths": [], "max_file_size": "20mb", "ssr_mode": False}
    return build(animator).launch(**(options | fixed))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m knotjax.serve.gradio_app", description="A Gradio demo.")
    parser.add_argument("--share", action="store_true", help="let others reach it through Gradio's public tunnel")
    launch(share=parser.parse_args().share)


if __name__ == "__main__":
    main()
