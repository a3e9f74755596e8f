"""The closed vocabularies of the embedded film catalogue; docs/films.md says how films were labelled."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """Words separated by white space."""
    return tuple(text.split())


GENRES = frozenset(
    words(
        """
        Action Adventure Animation Comedy Crime Documentary Drama Family Fantasy Film-Noir Horror Musical Mystery
        Romance Sci-Fi Thriller War Western
        """
    )
)
"""One to three of a film."""

MOODS = frozenset(
    words(
        """
        atmospheric bittersweet bleak chaotic claustrophobic contemplative cynical dark-humoured deadpan
        dreamlike eerie elegant epic exuberant fast-paced feel-good gritty gory heartwarming hopeful intimate
        ironic lyrical melancholic menacing mind-bending nostalgic playful poetic provocative quirky raw rousing
        sad satirical scary sensual slow-burn stylised surreal suspenseful tender tense thrilling tragic
        unsettling uplifting violent warm whimsical witty
        """
    )
)
"""How a film feels; every film has one at least."""

THEMES = frozenset(
    words(
        """
        addiction aliens ambition animals apocalypse architecture art artificial-intelligence assassin aviation
        betrayal biography boxing bureaucracy car-chase celebrity chess childhood christmas class cold-war
        colonialism comic-book coming-of-age conspiracy con-artist courtroom crime-family cult dance dementia
        detective dinosaurs disability disaster doppelganger dreams drugs dystopia ecology espionage existential
        faith family fashion fatherhood femme-fatale film-making food football friendship gangster gay-love
        ghosts gold greed grief guilt gunfight heist high-school history hitman holocaust horse identity
        immigration immortality insanity island isolation jazz journalism journey justice kidnapping kung-fu law
        love loyalty magic marriage martial-arts medieval memory mentor midlife mining monster motherhood
        mountain murder music myth nature new-york obsession office old-age outlaw paranoia parallel-worlds paris
        photography pirates poetry police politics poverty prison prophecy prostitution psychiatry puppets racism
        rebellion religion revenge revolution road-trip robot rock-music royalty rural-life sacrifice sailing
        samurai school science sea secret-agent serial-killer siblings slavery small-town space spirits sport
        submarine suburbia suicide super-hero superstition survival swordplay teacher technology teenagers
        terrorism theatre time-travel tokyo toys train treasure trial undercover unemployment vampire vietnam-war
        virtual-reality voyeurism wealth wedding western-frontier witchcraft women work world-war-one
        world-war-two writer zombies
        """
    )
)
"""What a film is about; every film has two at least."""
