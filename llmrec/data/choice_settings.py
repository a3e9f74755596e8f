"""Constants of the choice model behind the embedded films; docs/films.md says why each has its value."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt


class ChoiceSettings(BaseModel):
    """Constants of the choice model, in nats unless said otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_users: PositiveInt = 2000
    min_length: int = Field(default=8, ge=1)
    """Shortest history, in films."""
    max_length: int = Field(default=150, ge=1)
    """Longest history, in films; wins over `min_length`. Cut to the size of the catalogue."""
    length_median: int = Field(default=16, ge=0)
    """Median of the log-normal part of a history's length, added to `min_length`; its sigma is 0.8."""
    genre: NonNegativeFloat = 2.4
    """Weight of a genre that a viewer's type clearly likes."""
    genre_noise: NonNegativeFloat = 0.5
    """Standard deviation of personal genre taste."""
    keyword: NonNegativeFloat = 2.6
    """Weight of a theme or mood that belongs to a viewer's type."""
    keyword_noise: NonNegativeFloat = 0.4
    """Standard deviation of personal taste for themes and moods."""
    director: NonNegativeFloat = 1.6
    """Bonus of a favourite director."""
    actor: NonNegativeFloat = 1.0
    """Bonus of a favourite actor."""
    decade: NonNegativeFloat = 0.4
    """Loss per decade between a film and the viewer's favourite year, up to six decades."""
    year_sigma: int = Field(default=12, ge=0)
    """Standard deviation of the favourite year, in years."""
    start_mix: float = Field(default=0.8, ge=0, le=1)
    """Share of the first viewer type at the first film; drifts linearly to `end_mix` at the last."""
    end_mix: float = Field(default=0.4, ge=0, le=1)
    """Share of the first viewer type at the last film."""
    appeal: NonNegativeFloat = 0.6
    """Standard deviation of a film's log base appeal."""
    person_spread: NonNegativeFloat = 0.3
    """Standard deviation of attraction and coherence between users (mean 1, cut to 1/4 .. 2)."""
    follow_director: NonNegativeFloat = 0.7
    """Pull of a film on a film of the same director."""
    follow_actor: NonNegativeFloat = 0.4
    """Pull per common actor, at most two."""
    follow_keyword: NonNegativeFloat = 0.25
    """Pull per common theme or mood of average rarity."""
    follow_genre: NonNegativeFloat = 0.5
    """Pull of equal genres (times their cosine)."""
    follow_series: NonNegativeFloat = 0.2
    """Pull of the same series."""
    next_part: NonNegativeFloat = 1.7
    """Pull of a part of a series on the next part, on top of `follow_series`."""
    unseen_part: NonNegativeFloat = 1.0
    """Loss of a later part of a series while the part before it is unseen."""
    rating_base: float = 2.7
    """Stars of a film of average taste."""
    rating_gain: NonNegativeFloat = 0.3
    """Stars per nat of taste."""
    rating_noise: NonNegativeFloat = 0.6
    """Standard deviation of a single rating, in stars."""
    rating_offset: NonNegativeFloat = 0.4
    """Standard deviation of how generous users are, in stars."""
