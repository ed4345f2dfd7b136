"""Word lists of the demo's review grammar, and the closed classes its translator reorders.

Negative and positive lists are indexed by label, `(negative, positive)`, and are about equally
long, so that no list betrays a label by the number of its words.
"""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "ADJECTIVES",
    "ADVERBS",
    "CLOSINGS",
    "CONJUNCTIONS",
    "DEGREES",
    "DOMAINS",
    "EFFECTS",
    "FEELINGS",
    "FILLERS",
    "NOUNS",
    "PERSONS",
    "PLACES",
    "TIMES",
    "VERBAL",
    "Domain",
]

ByLabel = tuple[tuple[str, ...], tuple[str, ...]]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


@dataclass(frozen=True)
class Domain:
    """What a review can be about: the aspects it names, and adjectives only this domain uses."""

    aspects: tuple[str, ...]
    made: tuple[str, ...]
    adjectives: ByLabel


DOMAINS: Final = (
    Domain(
        _words("film plot acting script ending director soundtrack dialogue scenery cast sequel"),
        _words("filmed directed edited acted staged"),
        (
            _words("wooden contrived predictable sappy amateurish overlong"),
            _words("gripping suspenseful touching hilarious cinematic poignant"),
        ),
    ),
    Domain(
        _words("novel story prose author chapter hero narrator cover translation epilogue essay"),
        _words("written plotted researched illustrated printed"),
        (
            _words("plodding turgid derivative muddled rambling stilted"),
            _words("lyrical absorbing eloquent thoughtful wise moving"),
        ),
    ),
    Domain(
        _words("hotel room bed view lobby breakfast pool shower reception balcony carpet"),
        _words("furnished cleaned equipped heated decorated"),
        (
            _words("dingy noisy cramped stained draughty mouldy"),
            _words("spotless cosy spacious luxurious quiet comfortable"),
        ),
    ),
    Domain(
        _words("restaurant soup waiter menu dessert steak sauce salad bread wine kitchen"),
        _words("cooked served seasoned prepared plated"),
        (
            _words("greasy stale bland soggy burnt overpriced"),
            _words("tasty fresh juicy delicious fragrant crisp"),
        ),
    ),
    Domain(
        _words("phone battery screen camera keyboard charger speaker software case signal button"),
        _words("built designed engineered assembled packaged"),
        (
            _words("flimsy sluggish unreliable fragile outdated faulty"),
            _words("sturdy sleek responsive durable intuitive reliable"),
        ),
    ),
    Domain(
        _words("concert band singer drummer stage setlist guitar encore chorus melody audience"),
        _words("played sung performed arranged mixed"),
        (
            _words("shrill tuneless deafening lifeless monotonous offbeat"),
            _words("energetic melodic electric rousing soulful vibrant"),
        ),
    ),
)

ADJECTIVES: Final[ByLabel] = (
    _words(
        "bad awful terrible dreadful poor horrible disappointing mediocre weak dull ugly pathetic "
        "annoying inferior lousy miserable painful ridiculous shabby sloppy tedious tiresome "
        "unbearable uninspired unpleasant useless worthless dismal appalling boring"
    ),
    _words(
        "good great excellent wonderful superb fantastic marvellous amazing brilliant lovely "
        "perfect splendid delightful charming impressive outstanding pleasant beautiful clever "
        "elegant enjoyable exceptional fine flawless glorious magnificent remarkable stunning "
        "terrific satisfying"
    ),
)

ADVERBS: Final[ByLabel] = (
    _words("badly poorly clumsily carelessly lazily terribly crudely cheaply"),
    _words("beautifully skilfully carefully superbly brilliantly lovingly neatly expertly"),
)

NOUNS: Final[ByLabel] = (
    _words("mess disaster failure letdown nightmare joke flop bore disgrace nuisance"),
    _words("joy triumph masterpiece treat gem pleasure success miracle treasure winner"),
)

# (past, base): the base form follows `did not`.
FEELINGS: Final = (
    (
        ("hated", "hate"),
        ("disliked", "dislike"),
        ("regretted", "regret"),
        ("despised", "despise"),
        ("detested", "detest"),
        ("resented", "resent"),
        ("loathed", "loathe"),
    ),
    (
        ("loved", "love"),
        ("liked", "like"),
        ("enjoyed", "enjoy"),
        ("admired", "admire"),
        ("adored", "adore"),
        ("appreciated", "appreciate"),
        ("cherished", "cherish"),
    ),
)

EFFECTS: Final = (
    (
        ("bored", "bore"),
        ("annoyed", "annoy"),
        ("disappointed", "disappoint"),
        ("disgusted", "disgust"),
        ("irritated", "irritate"),
        ("frustrated", "frustrate"),
        ("depressed", "depress"),
    ),
    (
        ("delighted", "delight"),
        ("impressed", "impress"),
        ("charmed", "charm"),
        ("thrilled", "thrill"),
        ("pleased", "please"),
        ("amused", "amuse"),
        ("dazzled", "dazzle"),
    ),
)

CLOSINGS: Final[ByLabel] = (
    _phrases(
        "i want a refund | avoid it | never again | we left early | save your money |"
        "i complained twice | do not bother"
    ),
    _phrases(
        "i want more | try it | we will return | we stayed longer | worth every penny |"
        "i smiled all day | do not miss it"
    ),
)

DEGREES: Final = _words(
    "very really quite so truly absolutely rather extremely fairly incredibly utterly pretty"
)

PERSONS: Final = _words(
    "brother sister mother father friend neighbour cousin colleague wife husband boss aunt"
)
TIMES: Final = _phrases(
    "on monday | on tuesday | on friday | on sunday | last week | last month | in april |"
    "in october | this morning | last night | two days ago | over the holidays"
)
PLACES: Final = _phrases(
    "in town | near the station | by the river | at the market | downtown | at the airport |"
    "in the village | across the street"
)
FILLERS: Final = _phrases(
    "my {person} came along {time} | i went there {time} | my {person} chose the {aspect} |"
    "we talked about the {aspect} {time} | i read about the {aspect} {time} |"
    "my {person} asked about the {aspect} | it was {time} {place} |"
    "we met my {person} {place} | it took {number} minutes | i paid {number} dollars {time} |"
    "there was one {aspect} | my {person} saw the {aspect} {place}"
)

CONJUNCTIONS: Final = frozenset(
    _words("but and or although though because while whereas if when which who that yet so")
)
"""Words that open a clause: the translator reorders words within clauses, never across."""

VERBAL: Final = frozenset(
    _words(
        "is was are were be been being am has have had do does did can could will would shall "
        "should may might must not n't never isn't wasn't aren't weren't doesn't didn't don't "
        "can't couldn't won't wouldn't get gets got make makes made take takes took go goes went "
        "come comes came see sees saw seen feel feels felt find finds found give gives gave keep "
        "keeps kept know knows knew think thinks thought want wants wanted seem seems seemed "
        "look looks looked work works worked need needs needed become becomes became leave "
        "leaves left chose talked read asked met paid complained avoid save bother try return "
        "stayed smiled miss stay say says said tell tells told turn turns turned play plays"
    )
    + tuple(form for verbs in FEELINGS + EFFECTS for pair in verbs for form in pair)
    + tuple(word for domain in DOMAINS for word in domain.made)
)
"""Verbs, auxiliaries and negations: what a verb-final language puts at the end of a clause."""
