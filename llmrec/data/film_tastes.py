"""Kinds of film viewers: what they like, and how age and occupation go with it (weakly)."""

from __future__ import annotations

from typing import NamedTuple

from llmrec.data.film_vocabulary import words


class ViewerType(NamedTuple):
    """A kind of viewer. Real users of the model are mixtures of two kinds plus personal deviations."""

    name: str
    genres: dict[str, float]
    """Weight of a genre: 1 is a clear liking, negative is avoidance."""
    keywords: tuple[str, ...]
    """Themes and moods of weight 1."""
    years: int
    """Favourite time relative to what the viewer's age suggests, in years."""
    ages: tuple[str, ...]
    """Age groups that hold this type twice as often as others."""
    occupations: tuple[str, ...]
    """Occupations that hold this type twice as often as others."""


class AgeGroup(NamedTuple):
    """A public age group."""

    name: str
    weight: int
    """Share of users, relative."""
    favourite_year: int
    """Centre of the favourite time of films."""


AGE_GROUPS = (
    AgeGroup("under 18", 1, 2011),
    AgeGroup("18-24", 4, 2006),
    AgeGroup("25-34", 6, 2000),
    AgeGroup("35-44", 4, 1992),
    AgeGroup("45-54", 3, 1982),
    AgeGroup("55+", 3, 1970),
)

OCCUPATIONS = (
    "student",
    "engineer",
    "teacher",
    "nurse",
    "artist",
    "office worker",
    "researcher",
    "shop assistant",
    "manager",
    "retired",
)


VIEWER_TYPES = (
    ViewerType(
        "thrill seeker",
        {"Action": 1.2, "Adventure": 0.9, "Thriller": 0.6, "Sci-Fi": 0.4, "Documentary": -0.8, "Romance": -0.4},
        words("thrilling fast-paced epic car-chase super-hero secret-agent revenge rousing comic-book"),
        6,
        ("under 18", "18-24"),
        ("student", "shop assistant"),
    ),
    ViewerType(
        "futurist",
        {"Sci-Fi": 1.5, "Mystery": 0.5, "Adventure": 0.3, "Romance": -0.5, "Western": -0.6},
        words(
            "mind-bending artificial-intelligence space dystopia robot time-travel technology science aliens "
            "parallel-worlds virtual-reality"
        ),
        4,
        ("18-24", "25-34"),
        ("engineer", "researcher"),
    ),
    ViewerType(
        "night owl",
        {"Horror": 1.7, "Mystery": 0.4, "Thriller": 0.4, "Family": -0.9, "Musical": -0.7},
        words("scary eerie unsettling gory monster ghosts zombies vampire witchcraft menacing"),
        0,
        ("18-24", "25-34"),
        ("student", "artist"),
    ),
    ViewerType(
        "sleuth",
        {"Crime": 1.2, "Film-Noir": 1.2, "Thriller": 0.7, "Mystery": 0.8, "Family": -0.6, "Fantasy": -0.5},
        words(
            "gritty cynical detective gangster heist murder police femme-fatale hitman suspenseful crime-family "
            "undercover"
        ),
        -6,
        ("35-44", "45-54"),
        ("manager", "office worker"),
    ),
    ViewerType(
        "romantic",
        {"Romance": 1.4, "Drama": 0.3, "Comedy": 0.3, "War": -0.4, "Horror": -0.9, "Action": -0.5},
        words("tender bittersweet love marriage wedding warm sensual intimate elegant"),
        0,
        ("25-34", "55+"),
        ("nurse", "teacher"),
    ),
    ViewerType(
        "family viewer",
        {"Animation": 1.3, "Family": 1.2, "Fantasy": 0.7, "Adventure": 0.3, "Horror": -1.0, "Crime": -0.7, "War": -0.6},
        words("heartwarming playful whimsical magic animals toys childhood feel-good exuberant friendship family"),
        5,
        ("under 18", "35-44"),
        ("teacher", "nurse"),
    ),
    ViewerType(
        "cinephile",
        {"Drama": 0.8, "Documentary": 0.3, "Action": -0.7, "Family": -0.6, "Sci-Fi": -0.3},
        words(
            "contemplative poetic melancholic slow-burn memory faith existential lyrical dreamlike guilt "
            "isolation grief"
        ),
        -14,
        ("45-54", "55+"),
        ("artist", "researcher"),
    ),
    ViewerType(
        "wit",
        {"Comedy": 1.4, "Musical": 0.2, "War": -0.5, "Horror": -0.4},
        words("witty dark-humoured deadpan satirical quirky ironic playful con-artist office surreal"),
        0,
        ("25-34", "35-44"),
        ("office worker", "engineer"),
    ),
    ViewerType(
        "historian",
        {"War": 1.4, "Drama": 0.4, "Documentary": 0.5, "Fantasy": -0.5, "Animation": -0.5},
        words(
            "history world-war-two world-war-one politics tragic sacrifice cold-war holocaust biography espionage "
            "revolution submarine"
        ),
        -8,
        ("45-54", "55+"),
        ("retired", "manager"),
    ),
    ViewerType(
        "rider",
        {"Western": 2.0, "Action": 0.6, "Adventure": 0.6, "Musical": -0.5},
        words(
            "samurai gunfight outlaw western-frontier swordplay martial-arts kung-fu revenge journey loyalty gold "
            "stylised"
        ),
        -10,
        ("35-44", "55+"),
        ("retired", "shop assistant"),
    ),
    ViewerType(
        "music lover",
        {"Musical": 1.7, "Comedy": 0.3, "Romance": 0.3, "Thriller": -0.5, "Sci-Fi": -0.5},
        words("music dance rock-music jazz exuberant theatre celebrity art elegant nostalgic"),
        -4,
        ("25-34", "55+"),
        ("artist", "shop assistant"),
    ),
    ViewerType(
        "realist",
        {"Documentary": 1.6, "Drama": 0.6, "Fantasy": -0.9, "Animation": -0.5, "Adventure": -0.5},
        words("raw class poverty immigration women politics work justice racism motherhood unemployment prison gritty"),
        2,
        ("25-34", "45-54"),
        ("nurse", "researcher"),
    ),
    ViewerType(
        "young at heart",
        {"Drama": 0.5, "Comedy": 0.5, "Romance": 0.3, "War": -0.6, "Western": -0.6},
        words(
            "coming-of-age teenagers school high-school nostalgic identity small-town siblings rebellion "
            "childhood friendship road-trip"
        ),
        3,
        ("under 18", "18-24"),
        ("student", "teacher"),
    ),
)


def type_weights(age_group: str, occupation: str) -> list[int]:
    """Relative frequency of each viewer type in an age group and occupation: 1, 2 or 4."""
    return [(1 + (age_group in t.ages)) * (1 + (occupation in t.occupations)) for t in VIEWER_TYPES]


def occupation_weights(age_group: str) -> list[int]:
    """Relative frequency of each occupation in an age group."""
    special = {("student", "under 18"): 40, ("student", "18-24"): 12, ("retired", "55+"): 10}
    barred = {("retired", a.name) for a in AGE_GROUPS if a.name != "55+"}
    young = age_group == "under 18"
    return [
        special.get((job, age_group), 0 if (job, age_group) in barred or (young and job != "shop assistant") else 2)
        for job in OCCUPATIONS
    ]
