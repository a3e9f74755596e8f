"""Families that cross a few constructions with many words: what liking, disliking and knowing sound like.

A model of a million parameters has read almost nothing, so that it knows a judgement such as "a gem" or "unwatchable"
only when a training phrase held it. Everything here comes from ordinary words of praise and blame, and none from the
families that choose or test.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.roles.inventory_more import lines
from llmrec.roles.voices import Voice


def words(text: str) -> tuple[str, ...]:
    """Words and phrases between commas."""
    return tuple(" ".join(one.split()) for one in text.split(","))


PRAISE = words("""
    superb, brilliant, wonderful, excellent, terrific, stunning, gripping, charming, delightful, moving, flawless,
    perfect, outstanding, magnificent, hilarious, clever, lovely, amazing, awesome, incredible, marvellous, splendid,
    beautiful, touching, thrilling, exciting, fascinating, impressive, remarkable, unforgettable, memorable,
    enjoyable, entertaining, captivating, compelling, inspiring, refreshing, witty, elegant, powerful, breathtaking,
    exceptional, phenomenal, sublime, tremendous, glorious, extraordinary, great, good, cool, nice, fine, special,
    top-notch, spot-on, heartwarming, well-made""")
BLAME = words("""
    awful, terrible, dull, boring, horrible, dreadful, weak, poor, disappointing, painful, silly, unwatchable, bland,
    bad, lame, stupid, ridiculous, pointless, predictable, forgettable, mediocre, shallow, messy, confusing, slow,
    endless, annoying, irritating, depressing, unbearable, atrocious, abysmal, pathetic, laughable, clumsy, lifeless,
    hollow, tiresome, dreary, overlong, overdone, cheesy, corny, flat, stale, uninspired, unfunny, unpleasant,
    worthless, clichéd, lousy, appalling""")
PRIZES = words("""
    gem, triumph, joy, treat, delight, winner, classic, treasure, marvel, favourite, knockout, blast, wonder, hit,
    success, beauty, keeper, must-see, pearl, sensation, highlight, dream, jewel""")
FAILURES = words("""
    mess, bore, waste, disaster, flop, letdown, chore, mistake, shame, disappointment, dud, snooze, torture, turkey,
    misfire, joke, nightmare, catastrophe, embarrassment, slog, drag, insult, blunder, fiasco""")
LOVING = words("""
    loved, liked, enjoyed, adored, appreciated, cherished, treasured, relished, praised, valued, devoured""")
HATING = words("""
    hated, disliked, loathed, despised, resented, abhorred""")
SPOILING = words("""
    spoils the evening for me, puts me off, bores me, scares me, bothers me, annoys me, upsets me, gets on my nerves,
    makes me sick, wears me out, sends me to sleep, turns me off, drives me away, disgusts me, disturbs me, irritates
    me, stresses me out, gives me nightmares, makes me leave, makes me switch off, is a deal breaker, is a no from me,
    is out, is out of the question, is off the table, is forbidden, is banned, is unwelcome, is too much for me, is
    the last thing on my mind, has no place here, does not work for me, does not appeal to me, does not belong in it,
    must go, can go, can wait""")
SHUNNING = words("""
    avoid, dislike, hate, loathe, despise, dread, resent, reject, refuse, shun, ban, skip, fear, rule out, turn down,
    filter out, block, dismiss, boycott, run from, cannot abide, cannot stomach, will not touch, will not tolerate, do
    not tolerate, do not accept, do not appreciate, do not allow, never touch, never choose, never pick, am allergic
    to, am afraid of, am against, am done with, am weary of, am finished with, am over""")
WISHING = words("""
    want, desire, require, prefer, choose, demand, crave, pick, fancy, favour, welcome, am after, am up for, am eager
    for, am hungry for, am keen to get, am ready for, would enjoy, would appreciate, would welcome, would pick, would
    choose, would take, could use, could go for, long for, ask for, opt for, hope for, go for, vote for, hunt for,
    search for, wait for, live for, pray for""")


def crossed(templates: str, fillers: Sequence[str]) -> tuple[str, ...]:
    """Every template with each filler in place of ``{w}``, with "an" for "a" where it begins with a vowel."""
    made = (_article(one.replace("{w}", filler)) for one in lines(templates) for filler in fillers)
    return tuple(dict.fromkeys(made))


def _article(text: str) -> str:
    head, article, rest = text.partition(" a ")
    return f"{head} an {rest}" if article and rest[:1] in "aeiou" else text


VERDICT = Voice(
    want=crossed("I {w} {np}.", WISHING),
    avoid=crossed("{refused} {w}.", SPOILING),
    like=crossed("{titles}: {w}.\nI call {titles} {w}.", PRAISE) + crossed("{titles}, a {w} for me.", PRIZES),
    dislike=crossed("{titles}: {w}.\nI call {titles} {w}.", BLAME) + crossed("{titles}, a {w} for me.", FAILURES),
    seen=lines("""
        {titles}: seen.
        {titles}: watched.
        {titles}: already done.
        {titles}, seen last week."""),
    plot=lines("""
        I try to name the {noun} in which {rest}.
        Somewhere there is a {noun} where {rest}."""),
    vague=crossed("Make it {w}.\nI need one {w} evening.", PRAISE),
    chat=crossed("You are {w}.\nThat was {w} of you.", PRAISE[:30]),
    refine=crossed("Rather {np}, it would be {w}.", PRAISE[:20]) + lines("More {adjective}, less of the rest."),
    refuse=crossed("All of them {w}.\nThat list is {w}.", BLAME) + crossed("This list is a {w}.", FAILURES),
    unservable=lines("""
        Book me a flight.
        Charge my phone.
        Read me the headlines.
        Wake me at six.
        Count to one hundred.
        Solve this equation for me."""),
    correct=crossed("Make that {np}. {refused} {w}.", SPOILING),
)
FEELING = Voice(
    want=crossed("Tonight I {w} {np}.\nAs ever I {w} {np}.", WISHING),
    avoid=crossed("I {w} {refused}.\nI always {w} {refused}.", SHUNNING),
    like=crossed("I {w} {titles}.\nMy sister and I {w} {titles}.", LOVING)
    + crossed("{titles} was {w}.\n{titles} felt {w}.\nI found {titles} {w}.", PRAISE),
    dislike=crossed("I {w} {titles}.\nMy sister and I {w} {titles}.", HATING)
    + crossed("{titles} was {w}.\n{titles} felt {w}.\nI found {titles} {w}.", BLAME),
    seen=lines("""
        I finished {titles} yesterday.
        {titles} I watched on the train.
        I went to {titles} last year.
        I remember {titles} well, so another one.
        I rented {titles} last month."""),
    plot=lines("""
        In my head there is a {noun} where {rest}.
        All I remember is that {rest}."""),
    vague=crossed("Something {w} for tonight.\nI could use a {w} {noun}.", PRAISE),
    chat=crossed("I feel {w} today.\nWhat a {w} evening.", (*PRAISE[:25], *BLAME[:10])),
    refine=crossed("Those are {w}, now {np}.", PRAISE[:15]),
    refuse=crossed("They look {w}.\nThose sound {w}.\nHow {w} they all are.", BLAME),
    unservable=lines("""
        Play a song for me.
        What time is it in Tokyo?
        Draw me a horse.
        Who won the match?
        Sell my old bicycle.
        How do I fix a tap?"""),
    correct=crossed("I {w} {refused}, so change it to {np}.", SHUNNING),
)
RANKING = Voice(
    want=crossed("{np}, that is what I {w}.", WISHING) + lines("Top of my list: {np}.\nFirst choice: {np}."),
    avoid=crossed("We {w} {refused}.\nMy family and I {w} {refused}.", SHUNNING)
    + crossed("For me {refused} {w}.", SPOILING),
    like=crossed("{titles} is a {w}.\nWhat a {w} {titles} was.\n{titles} was a real {w}.", PRIZES)
    + crossed("{titles} is {w}.\nHow {w} {titles} was.\nSuch a {w} {noun}, {titles}.", PRAISE),
    dislike=crossed("{titles} is a {w}.\nWhat a {w} {titles} was.\n{titles} was a real {w}.", FAILURES)
    + crossed("{titles} is {w}.\nHow {w} {titles} was.\nSuch a {w} {noun}, {titles}.", BLAME),
    seen=lines("""
        {titles} I have on my shelf.
        I ticked off {titles}.
        {titles} is on my list of finished ones.
        We did {titles} on Sunday.
        {titles} is behind us."""),
    plot=lines("""
        The {noun} I mean: {rest}.
        Scene: {rest}."""),
    vague=crossed("Your most {w} one.\nWhat is {w}?", PRAISE),
    chat=crossed("{w}!\n{w}, thanks.", [word.capitalize() for word in PRAISE[:30]]),
    refine=lines("""
        Next page: {np}.
        Same again, but {np}.
        Narrow it down to {np}.
        Turn it into {np}."""),
    refuse=crossed("{w}, all of them.\n{w}. Others.", [word.capitalize() for word in BLAME])
    + lines("Watched, all of them.\nSeen, every single one.\nWe saw the whole lot."),
    unservable=lines("""
        Fold my laundry.
        Water the plants.
        Convert ten miles to kilometres.
        Is my parcel here yet?
        Spell rhythm.
        Recommend a restaurant."""),
    correct=lines("""
        I said {refused} but wanted {np}.
        Swap {refused} for {np}.
        Take {refused} off and put {np} on."""),
)
