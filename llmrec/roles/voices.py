"""Phrasing families: ways of talking, each with its own templates. Families held out of training test understanding.

Placeholders: {np} a description of what is wanted ("a funny film about robots"), {refused} what is not ("gore"),
{titles} one or two titles, {title} one, {noun} and {nouns} what items are called, {rest} words of a plot.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Voice:
    """One way of talking."""

    want: tuple[str, ...]
    avoid: tuple[str, ...]
    like: tuple[str, ...]
    dislike: tuple[str, ...]
    seen: tuple[str, ...]
    plot: tuple[str, ...]
    vague: tuple[str, ...]
    chat: tuple[str, ...]
    refine: tuple[str, ...]
    """Changes to the list just shown, with {np}."""
    refuse: tuple[str, ...]
    """Rejections of the whole list just shown."""
    unservable: tuple[str, ...] = ()
    """Requests that no tool can serve."""
    correct: tuple[str, ...] = ()
    """Corrections of what was said before, with {np} and {refused}."""


PLAIN = Voice(
    want=("I want {np}.", "I would like {np}.", "I am looking for {np}.", "Show me {np}.", "I want to watch {np}."),
    avoid=(
        "No {refused}.",
        "Please no {refused}.",
        "Without {refused}.",
        "I do not want {refused}.",
        "Nothing with {refused}.",
    ),
    like=("I loved {titles}.", "I like {titles}.", "Something like {titles}.", "More {nouns} like {titles}."),
    dislike=("I did not like {titles}.", "I hated {titles}.", "Nothing like {titles}."),
    seen=("I have already seen {titles}.", "I know {titles} already."),
    plot=("I want a {noun} where {rest}.", "The {noun} is about {rest}."),
    vague=(
        "I want something good.",
        "Recommend me something.",
        "I do not know what to watch.",
        "Show me something I would like.",
    ),
    chat=("Hello.", "Hi.", "Thank you.", "Thanks, that is all.", "Good evening."),
    refine=("Now {np}.", "I want {np} instead.", "Only {np}."),
    refuse=("I have seen those.", "I do not like those.", "Not that again.", "I do not want any of them."),
    unservable=(
        "What is the weather like?",
        "Remind me to buy milk.",
        "How tall is that mountain?",
        "Write a letter for me.",
    ),
    correct=(
        "I am sorry, not {refused}, but {np}.",
        "No, I want {np} and no {refused}.",
    ),
)
ASKING = Voice(
    want=(
        "Can you recommend {np}?",
        "Do you have {np}?",
        "What is {np} that I could watch?",
        "Could you find me {np}?",
        "Any suggestions for {np}?",
        "Is there {np}?",
    ),
    avoid=(
        "Can we leave out {refused}?",
        "But nothing with {refused}?",
        "And could you skip {refused}?",
        "Without {refused}?",
    ),
    like=("What else is like {titles}?", "I loved {titles}, anything similar?", "Do you know more like {titles}?"),
    dislike=("Can it be nothing like {titles}?", "{titles} was terrible, can you avoid that?"),
    seen=("I have seen {titles}, what else?", "Anything other than {titles}, which I know?"),
    plot=("What is that {noun} about {rest}?", "Is there a {noun} in which {rest}?"),
    vague=("What should I watch?", "What do you recommend?", "Any ideas?", "What would I enjoy?"),
    chat=("How are you?", "Who are you?", "What can you do?", "Are you there?"),
    refine=("Do you have {np} too?", "Could they be {adjective}?", "What about {np}?"),
    refuse=("Anything other than those?", "I know those, what else?", "Can you leave out those?"),
    unservable=(
        "Can you drive me home?",
        "What is ten times twelve?",
        "Could you water my plants?",
        "Where are my keys?",
    ),
    correct=(
        "Could you take {refused} back and look for {np}?",
        "Is it too late to ask for {np} and not {refused}?",
    ),
)
TERSE = Voice(
    want=("{np}", "{np} please", "{np}!", "need {np}"),
    avoid=("no {refused}", "not {refused}", "minus {refused}", "zero {refused}"),
    like=("like {titles}", "similar to {titles}", "more {titles}", "loved {titles}"),
    dislike=("not like {titles}", "hated {titles}"),
    seen=("seen {titles}", "know {titles}"),
    plot=("{rest}", "that one with {rest}"),
    vague=("anything", "something good", "whatever", "surprise me"),
    chat=("hi", "hey", "ok", "thx", "bye", "cool"),
    refine=("{np} instead", "more {adjective}", "{np} now"),
    refuse=("not those", "seen them", "not that again", "no to those"),
    unservable=(
        "weather tomorrow",
        "alarm at 7",
        "news",
        "football results",
    ),
    correct=(
        "not {refused}, {np}",
        "{np}, no {refused}",
    ),
)
CHATTY = Voice(
    want=(
        "Hey, I'm kind of in the mood for {np}, you know?",
        "So tonight my friends and I feel like {np}.",
        "Okay so I'd really love {np} right now!",
        "Honestly, {np} would make my day.",
    ),
    avoid=(
        "But please, no {refused}, I can't stand it!",
        "Just keep {refused} away from me.",
        "I'm so tired of {refused}.",
        "Oh, and absolutely nothing with {refused}.",
    ),
    like=(
        "I absolutely loved {titles}!",
        "{titles} is one of my favourites, got more of that?",
        "We watched {titles} last week and it was amazing.",
    ),
    dislike=("{titles} bored me to death.", "I really couldn't get into {titles}."),
    seen=("I've already watched {titles} though.", "And yes, I've seen {titles}."),
    plot=("I keep thinking of this {noun} where {rest}, any idea?", "There was something about {rest}, right?"),
    vague=(
        "I've had a long day, just give me something nice.",
        "I honestly have no idea what I feel like.",
        "Just surprise me!",
    ),
    chat=("Hey there, nice to meet you!", "Haha, you're good at this.", "Thanks so much, you're great!", "Wow, okay."),
    refine=("Hmm, maybe {np} after all?", "Nice, but I'd rather have {np}.", "Ooh, and {np} as well!"),
    refuse=("Ugh, I've seen all of those already.", "Nah, those aren't for me.", "Please not that again!"),
    unservable=(
        "Oh and what should I cook tonight?",
        "You know what, could you also feed my cat?",
        "So, who do you think will win on Sunday?",
    ),
    correct=(
        "Oh no, not {refused}, silly me, I meant {np}!",
        "Argh, I said it wrong, I'd love {np}, and no {refused}!",
    ),
)
TELLING = Voice(
    want=(
        "My sister asked for {np} for our evening.",
        "We usually watch {np} on Sundays.",
        "Today it should be {np}.",
        "The evening calls for {np}.",
    ),
    avoid=("She cannot bear {refused}.", "The children get scared, so no {refused}.", "We agreed on no {refused}."),
    like=("Last month we enjoyed {titles}.", "My favourite of all time is {titles}.", "It should feel like {titles}."),
    dislike=("We walked out of {titles}.", "{titles} disappointed all of us."),
    seen=("We watched {titles} on television already.", "{titles} is on our shelf."),
    plot=("A friend told me of a {noun} in which {rest}.", "It was about {rest}."),
    vague=("We have a free evening.", "There is nothing left on our list.", "We cannot agree on anything."),
    chat=("It has been raining all day.", "I am back.", "That was a lovely evening, thank you."),
    refine=("On reflection we prefer {np}.", "My sister would rather see {np}.", "It should be more {adjective}."),
    refuse=("We have been through those.", "Those did not appeal to anybody.", "She has seen them."),
    unservable=(
        "My washing machine is broken again.",
        "My sister needs a recipe for soup.",
        "The trains are late today.",
    ),
    correct=(
        "I misspoke earlier, it should be {np} and not {refused}.",
        "My sister corrects me: no {refused}, but {np}.",
    ),
)
POLITE = Voice(
    want=(
        "I wonder whether you might suggest {np}.",
        "Would you be so kind as to propose {np}?",
        "It would be a pleasure to discover {np}.",
        "May I ask for {np}?",
    ),
    avoid=("I should prefer to be spared {refused}.", "Kindly omit {refused}.", "I am not fond of {refused}."),
    like=(
        "I was rather taken with {titles}.",
        "{titles} gave me great pleasure.",
        "In the spirit of {titles}, if possible.",
    ),
    dislike=("I did not care for {titles}.", "{titles} was not to my taste."),
    seen=("I am familiar with {titles}.", "I have had the pleasure of {titles}."),
    plot=("I recall a {noun} concerning {rest}.", "Might there be a {noun} in which {rest}?"),
    vague=("I am open to suggestions.", "I leave the choice to you.", "What might suit me?"),
    chat=("Good day to you.", "Much obliged.", "I appreciate your help."),
    refine=("Perhaps {np} would suit better.", "Might I see {np} as well?"),
    refuse=("I am acquainted with those.", "I would rather not see those again.", "None of those appeals to me."),
    unservable=(
        "Might you know when the post arrives?",
        "May I trouble you to mend my umbrella?",
        "I should be obliged for directions to the museum.",
    ),
    correct=(
        "Forgive me, rather than {refused} I had {np} in mind.",
        "I beg your pardon, it was {np} that I intended, in place of {refused}.",
    ),
)
OFFHAND = Voice(
    want=("gimme {np}", "lemme see {np}", "feeling {np} tonight", "hit me with {np}", "got {np}?"),
    avoid=("skip the {refused}", "hold the {refused}", "{refused} is a no go", "I'm out if there's {refused}"),
    like=("{titles} rocked", "big fan of {titles}", "if it's anything like {titles} I'm in"),
    dislike=("{titles} sucked", "couldn't finish {titles}"),
    seen=("done with {titles}", "been there with {titles}"),
    plot=("the one where {rest}", "what's that thing with {rest}"),
    vague=("dunno, you pick", "whatever's good", "bored, help"),
    chat=("yo", "sup", "lol ok", "cheers mate"),
    refine=("make it {np}", "rather {np}"),
    refuse=("nope, watched those", "pass on those", "ditch them"),
    unservable=(
        "what's the traffic like",
        "spot me a tenner",
        "where's the nearest pub",
    ),
    correct=(
        "my bad, {np}, ditch the {refused}",
        "nvm the {refused}, {np} it is",
    ),
)

VOICES: dict[str, Voice] = {
    "plain": PLAIN,
    "asking": ASKING,
    "terse": TERSE,
    "chatty": CHATTY,
    "telling": TELLING,
    "polite": POLITE,
    "offhand": OFFHAND,
}
TRAIN_FAMILIES: tuple[str, ...] = ("plain", "asking", "terse", "chatty", "telling")
HELD_OUT_FAMILIES: tuple[str, ...] = ("polite", "offhand")
"""Never used for training; a test compares understanding on them."""
