"""Endless short English sentences from a small grammar; its words hold every English phoneme."""

import re

import numpy as np

_WORDS = {
    "person": """mother father brother sister baby boy girl friend teacher doctor farmer painter singer baker pilot
        neighbour cousin uncle aunt child woman man king queen captain driver writer player runner student boss""",
    "thing": """book apple map cup lamp boat car piano button paper pepper bubble bottle table pillow window mirror
        camera ball balloon bell box brush bowl bread cake cheese chair clock cloud coat coin door drum feather
        flag flower fork glove hammer hat jar jewel key kite knife ladder leaf letter mug nail orange oven pan
        peach pencil phone plate pot pump purse ring rope shoe spoon stone toy towel train tree umbrella vase
        wheel whistle treasure sofa guitar garage""",
    "animal": """bear bird bee cat cow dog duck fish fox frog goat goose hen horse lamb lion monkey moose mouse owl
        panda parrot pig puppy rabbit sheep snake spider swan tiger turtle whale wolf worm zebra bat beaver""",
    "place": """beach bridge church city farm field forest garden harbour hill house island kitchen lake market museum
        park pool river road room school shop square station theatre tower village yard barn bath office""",
    "adjective": """big small old young brown purple blue yellow pale bright dark warm cool cheap smooth rough soft
        round wide empty happy sad calm brave proud polite funny simple famous broken beautiful perfect wooden
        loud quiet joyful cheerful foolish lovely heavy playful mild bumpy golden new good other usual""",
    "base": """see find buy make move push pull paint bring follow watch carry drop pick like love keep miss want
        open cover wash borrow offer choose remember forget measure welcome stop help mention catch show enjoy""",
    "past": """saw found bought made moved pushed pulled painted brought followed watched carried dropped picked
        liked loved kept missed wanted opened covered washed borrowed offered chose remembered forgot measured
        welcomed stopped helped mentioned caught showed enjoyed""",
    "walked": """walked jumped slept waited laughed sang hopped ran swam played stopped worked hummed smiled stood
        danced wandered mumbled whispered rolled climbed arrived""",
    "adverb": """slowly quickly happily softly calmly again together early now once twice there somehow warmly by_noon
        at_home before_dawn after_lunch in_May with_me for_you""",
    "by": "by from near above below behind beyond around past through towards beside",
    "five": "two three four five seven eight nine ten eleven twelve many some",
    "Bob": """Bob Mary Emma Paul Pam Ben Joe Ruth Maya Mabel Tom Zoe Hugh Amber Philip Martha George Joyce Sophie
        Bobby Peter Marvin""",
    "Well": "Well Yes No Maybe Perhaps Of_course Hello Oh_my Thank_you Good_morning By_the_way Honestly Oh_boy",
    "the": "the the the my our your his her this that",
}
WORDS = {kind: tuple(word.replace("_", " ") for word in words.split()) for kind, words in _WORDS.items()}
TEMPLATES = (
    "{the} {person} {past} {the} {adjective} {thing}.",
    "{the} {adjective} {animal} {walked} {by} {the} {place}.",
    "{Bob} {past} {five} {adjective} {thing}s.",
    "{Bob} and {Bob} {walked} {by} {the} {place}.",
    "{Well}, {the} {person} may {base} {the} {thing}.",
    "{Well}! {Bob} {past} {the} {animal} {adverb}.",
    "Did {the} {person} {base} {the} {adjective} {thing}?",
    "Will you {base} {the} {thing} {adverb}?",
    "Why did {Bob} {base} {the} {animal}?",
    "Where is {the} {adjective} {thing}, {Bob}?",
    "Please {base} {the} {thing} and {the} {thing}.",
    "{five} {animal}s {walked} {by} {the} {adjective} {place}.",
    "{the} {thing} was {adjective}, but {adjective}.",
    "When {Bob} {walked}, {the} {animal} {walked} {adverb}.",
    "I {past} {the} {thing} {by} {the} {place}.",
    "We {base} {the} {adjective} {animal}s {adverb}.",
    "How {adjective} {the} {place} is!",
    "{Well}, {Bob} {walked}.",
    "{the} {animal}, {the} {animal}, and {Bob} {walked}.",
    "Put {the} {thing} {by} {the} {thing}, {Bob}.",
)
_PLURALS = {
    "mouses": "mice", "gooses": "geese", "sheeps": "sheep", "wolfs": "wolves", "knifes": "knives", "leafs": "leaves",
    "fishs": "fish", "foxs": "foxes", "peachs": "peaches", "brushs": "brushes", "boxs": "boxes", "mooses": "moose",
}  # fmt: skip


def sentence(rng: np.random.Generator) -> str:
    """One sentence of three to ten short words, with its capital letter and punctuation."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]

    def draw(match: re.Match) -> str:
        words = WORDS[match[1]]
        return words[rng.integers(len(words))]

    text = re.sub(r"\{(\w+)\}", draw, template)
    text = re.sub(r"\w+", lambda match: _PLURALS.get(match[0], match[0]), text)
    return text[0].upper() + text[1:]
